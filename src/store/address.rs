//! What was given as a repository's place → whether that is a directory, a bucket, or the address of something else.
//!
//! Other programs write `s3:bucket/x`, `sftp:user@host:/x`, `rclone:remote:x`. Taken for a directory, such an address would
//! become one below the current directory, on the disk that is to be saved.

use std::path::Path;

use crate::store::S3_SCHEME;

/// Refuses a place that is neither a directory nor `s3://bucket/prefix`. A relative path with a colon in its first part
/// is taken for an address: `./a:b` is how such a directory is written.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn refuse_other_kinds(place: &Path) -> Result<(), String> {
    let text = place.to_string_lossy();
    let is_address = text.split('/').next().is_some_and(|first| first.contains(':'));
    let Some((kind, rest)) = text.split_once(':').filter(|_| is_address && !text.starts_with(S3_SCHEME))
    else {
        return Ok(());
    };
    let advice = match kind.to_ascii_lowercase().as_str() {
        "s3" => as_bucket(rest),
        "file" => format!("a directory is written as its path: /{}", rest.trim_start_matches('/')),
        _ => "a repository lies in a directory or in a bucket (s3://bucket/prefix); \
              mount what that address names (sshfs, NFS, rclone mount), and name the directory"
            .to_owned(),
    };
    let directory = match std::fs::symlink_metadata(place) {
        Ok(_) => "what lies under that name in the current directory",
        Err(_) => "a directory of that name",
    };
    Err(format!("is the address of another kind of place: {advice}; {directory} is written ./{text}"))
}

/// Says which link on the way to a place leads to nothing: a disk that is not mounted, mostly. None if there is no such
/// link.
pub fn dead_link(place: &Path) -> Option<String> {
    let deepest = place.ancestors().find(|part| part.symlink_metadata().is_ok())?;
    let target = deepest.read_link().ok()?;
    let error = deepest.metadata().err()?;
    let (link, target) = (deepest.display(), target.display());
    Some(format!("{link} is a link to {target}, where there is nothing ({error}); is a disk not mounted?"))
}

/// Returns how a bucket is written that another program writes as `s3:` and `rest`.
fn as_bucket(rest: &str) -> String {
    let is_url = ["http://", "https://"].iter().any(|scheme| rest.starts_with(scheme));
    let bare = rest.split_once("://").map_or(rest, |(_, bare)| bare).trim_start_matches('/');
    let (first, behind) = bare.split_once('/').unwrap_or((bare, ""));
    let is_server = is_url || (!rest.starts_with("//") && first.contains(['.', ':']) && !behind.is_empty());
    match (is_server, bare.is_empty()) {
        (true, _) => {
            let scheme = if rest.starts_with("http://") { "http" } else { "https" };
            format!("a bucket is written {S3_SCHEME}{behind}, its server --s3-endpoint {scheme}://{first}")
        }
        (false, true) => format!("a bucket is written {S3_SCHEME}bucket/prefix"),
        (false, false) => format!("a bucket is written {S3_SCHEME}{bare}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(place: &str) -> String {
        refuse_other_kinds(Path::new(place)).expect_err(place)
    }

    #[test]
    fn an_address_of_another_kind_is_no_directory() {
        for place in [
            "s3:bucket/x",
            "S3://bucket/x",
            "s3:",
            "sftp:user@host:/x",
            "user@host:/x",
            "host:x",
            "rest:http://h/x",
            "rclone:remote:x",
            "b2:bucket:x",
            "http://h/x",
            "file:///srv/x",
            "C:\\snap",
        ] {
            assert!(refused(place).contains(&format!("./{place}")), "{}", refused(place));
        }
    }

    #[test]
    fn what_would_be_right_is_said() {
        let says = |place: &str, right: &str| {
            let said = refused(place);
            assert!(said.contains(right), "{place}: {said}");
        };
        says("s3:bucket/x", "written s3://bucket/x;");
        says("S3://bucket/x", "written s3://bucket/x;");
        says("S3://mail.example.org/x", "written s3://mail.example.org/x;");
        says(
            "s3:s3.amazonaws.com/bucket/x",
            "written s3://bucket/x, its server --s3-endpoint https://s3.amazonaws.com;",
        );
        says(
            "s3:http://localhost:9000/b/x",
            "written s3://b/x, its server --s3-endpoint http://localhost:9000;",
        );
        says("file:///srv/x", "its path: /srv/x;");
        says("sftp:user@host:/x", "sshfs");
    }

    #[test]
    fn directories_and_buckets_are_taken_as_they_are() {
        for place in ["s3://bucket/x", "/srv/a:b", "./a:b", "../a:b", "a/b:c", "backup", ""] {
            assert_eq!(refuse_other_kinds(Path::new(place)), Ok(()), "{place}");
        }
    }
}
