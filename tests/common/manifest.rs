//! The manifest of a snapshot that is made up: trees that no backup wrote.

use snap::base::content::ContentBuf;
use snap::base::time::Time;
use snap::stage::snapshot::{Component, Manifest, Status};

/// Returns the manifest of a snapshot of one component, `mail`.
pub fn made_up(seconds: i64, root: ContentBuf) -> Manifest {
    let component = Component {
        name: "mail".to_owned(),
        directory: Vec::new(),
        sources: Vec::new(),
        status: Status::Complete,
        attempts: 1,
        files: 0,
        bytes: 0,
    };
    Manifest {
        time: Time::new(seconds, 0),
        host: "test".to_owned(),
        user: "test".to_owned(),
        program: "test".to_owned(),
        components: vec![component],
        root,
        ..Manifest::default()
    }
}
