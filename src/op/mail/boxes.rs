//! Trees of components → mailboxes, by a layout or guessed: a directory with `cur/` beside `new/` or `tmp/`.
//!
//! What several nights share is looked at once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::content::ContentBuf;
use crate::base::entry::Kind;
use crate::repo::browse::{Place, find};
use crate::repo::reader::Reader;
use crate::repo::stand_in::fault;
use crate::repo::{RepoError, Snapshot};
use crate::stage::message::layout::{Layout, guessed};
use crate::stage::snapshot::{Manifest, Status};
use crate::stage::tree::Entries;

/// Deepest directory in a component that a mailbox is looked for in, where no layout says.
const DEPTH_MAX: usize = 12;

/// Where mailboxes are looked for.
#[derive(Clone, Debug, Default)]
pub struct Where {
    /// The component; all if none is named.
    pub component: Option<String>,
    /// The layout; guessed if there is none.
    pub layout: Option<Layout>,
}

/// A mailbox of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// Whose it is.
    pub user: String,
    /// Its path in the snapshot.
    pub path: Vec<u8>,
    /// Name of its component.
    pub component: String,
    /// Its directory.
    pub content: ContentBuf,
}

/// What a component of a snapshot can't show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// Which component, or which path in the snapshot.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// The mailboxes of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// By user and path.
    pub mailboxes: Vec<Mailbox>,
    /// What can't be seen.
    pub unseen: Vec<Unseen>,
}

impl Found {
    /// Returns a user's mailbox; case does not matter where no two differ in it alone.
    ///
    /// # Errors
    /// Why there is none, or that there are several.
    pub fn of_user(&self, user: &str) -> Result<Option<&Mailbox>, RepoError> {
        let matching = |is: &dyn Fn(&str) -> bool| -> Vec<&Mailbox> {
            self.mailboxes.iter().filter(|mailbox| is(&mailbox.user)).collect()
        };
        let mut own = matching(&|name| name == user);
        if own.is_empty() {
            own = matching(&|name| name.eq_ignore_ascii_case(user));
        }
        match own.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            several => {
                let paths: Vec<String> =
                    several.iter().map(|mailbox| crate::base::entry::quoted(&mailbox.path)).collect();
                let reason = format!(
                    "{} are called so: [mail] component or layout in the configuration can tell them apart",
                    paths.join(" and ")
                );
                Err(RepoError::Source { path: format!("mailbox {user}"), reason })
            }
        }
    }
}

/// A mailbox's directory, and its path below where it was looked for.
type Below = (Vec<u8>, ContentBuf);

/// Finds mailboxes, and remembers what it has seen.
pub struct Finder<'f> {
    reader: &'f Reader<'f>,
    places: &'f Where,
    known: HashMap<(usize, ContentBuf), Arc<Vec<Below>>>,
}

impl<'f> Finder<'f> {
    /// Begins to look.
    pub fn new(reader: &'f Reader<'f>, places: &'f Where) -> Self {
        Self { reader, places, known: HashMap::new() }
    }

    /// Returns the mailboxes of a snapshot; `snapshot` may be put together of several.
    ///
    /// # Errors
    /// [`RepoError::Source`] if the configured component is in no such snapshot; what reading meets that is no damage.
    pub fn all(&mut self, snapshot: &Snapshot) -> Result<Found, RepoError> {
        let mut found = Found::default();
        let wanted = self.places.component.clone();
        let components = snapshot.manifest.components.iter();
        let components = components.filter(|it| wanted.as_ref().is_none_or(|wanted| *wanted == it.name));
        for component in components {
            let root = match find(self.reader, snapshot, &component.directory) {
                Ok(Place::Root(root)) => root,
                Ok(Place::Entry(record)) => {
                    let entry = record.entry()?;
                    match entry.kind {
                        Kind::Directory => entry.content.to_owned(),
                        _ => continue,
                    }
                }
                Err(RepoError::NoPath { .. }) => continue,
                Err(e) => {
                    found.damaged(&component.directory, e)?;
                    continue;
                }
            };
            let below = self.below(&root, 0, &component.directory, &mut found)?;
            for (path, content) in below.iter() {
                let user = match &self.places.layout {
                    Some(layout) => layout.user(path),
                    None => Some(guessed(path)),
                };
                let Some(user) = user else { continue };
                let path = joined(&component.directory, path);
                let component = component.name.clone();
                found.mailboxes.push(Mailbox { user, path, component, content: content.clone() });
            }
        }
        found.mailboxes.sort_by(|a, b| (&a.user, &a.path).cmp(&(&b.user, &b.path)));
        Ok(found)
    }

    /// Returns the mailboxes below a directory, `depth` directories below the component's.
    fn below(
        &mut self,
        directory: &ContentBuf,
        depth: usize,
        path: &[u8],
        found: &mut Found,
    ) -> Result<Arc<Vec<Below>>, RepoError> {
        let key = (depth, directory.clone());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let seen = found.unseen.len();
        let mut mailboxes = Vec::new();
        match children(self.reader, directory) {
            Ok(children) => {
                let has = |name: &[u8]| children.iter().any(|(child, _)| child == name);
                let is_mailbox = match &self.places.layout {
                    Some(layout) => depth == layout.depth() && has(b"cur"),
                    None => has(b"cur") && (has(b"new") || has(b"tmp")),
                };
                if is_mailbox {
                    mailboxes.push((Vec::new(), directory.clone()));
                } else {
                    for (name, content) in &children {
                        let is_on_the_way = match &self.places.layout {
                            Some(layout) => layout.is_on_the_way(depth, name),
                            None => depth < DEPTH_MAX,
                        };
                        if !is_on_the_way {
                            continue;
                        }
                        let below = self.below(content, depth + 1, &joined(path, name), found)?;
                        mailboxes.extend(
                            below.iter().map(|(path, content)| (joined(name, path), content.clone())),
                        );
                    }
                }
            }
            Err(e) => found.damaged(path, e)?,
        }
        let mailboxes = Arc::new(mailboxes);
        if found.unseen.len() == seen {
            self.known.insert(key, mailboxes.clone());
        }
        Ok(mailboxes)
    }
}

impl Found {
    fn damaged(&mut self, path: &[u8], error: RepoError) -> Result<(), RepoError> {
        if !error.is_unreadable() {
            return Err(error);
        }
        let what = crate::base::entry::quoted(path);
        self.unseen.push(Unseen { what, reason: format!("directory cannot be read: {}", error.chain()) });
        Ok(())
    }
}

/// Returns why the component of a mailbox can't be seen in a night, as it is: it failed, or is not in it. One that is
/// suspect or there in part can be seen.
pub fn absence(manifest: &Manifest, component: &str) -> Option<String> {
    match manifest.components.iter().find(|own| own.name == component) {
        None => Some(format!("has no component {component}")),
        Some(own) if own.status == Status::Failed => {
            Some(format!("{component} {}", fault(manifest, own).unwrap_or_default()))
        }
        Some(_) => None,
    }
}

/// Returns the directories in a directory.
pub(super) fn children(
    reader: &Reader<'_>,
    directory: &ContentBuf,
) -> Result<Vec<(Vec<u8>, ContentBuf)>, RepoError> {
    let stream = reader.content(directory.borrowed())?;
    let mut children = Vec::new();
    for entry in Entries::new(&stream) {
        let (_, entry) = entry?;
        if entry.kind == Kind::Directory {
            children.push((entry.name.to_vec(), entry.content.to_owned()));
        }
    }
    Ok(children)
}

/// Joins two paths, either of which may be empty.
pub(super) fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    match (path, name) {
        (b"", other) | (other, b"") => other.to_vec(),
        (path, name) => [path, b"/", name].concat(),
    }
}
