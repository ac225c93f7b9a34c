//! What mails say of components that are suspect.

use std::fmt::Write;

use crate::job::clock::shown;
use crate::job::notice::Facts;

/// Writes what speaks against each.
pub fn section(facts: &Facts<'_>, body: &mut String) {
    if facts.suspects.is_empty() {
        return;
    }
    body.push_str("\nSuspect\n");
    for suspect in &facts.suspects {
        let _ = writeln!(body, "  {}", suspect.component);
        for line in suspect.lines() {
            let _ = writeln!(body, "    {line}");
        }
        let _ = writeln!(
            body,
            "    what is there is in the new snapshot; the last whole one is {} of {}, and stays",
            suspect.last_whole,
            shown(suspect.last_whole_time)
        );
    }
}

/// Returns what to do, step by step.
pub fn steps(facts: &Facts<'_>) -> Vec<String> {
    let Some(first) = facts.suspects.first() else { return Vec::new() };
    let names = facts.suspects.iter().map(|suspect| format!(" --accept {}", suspect.component));
    let names: String = names.collect();
    let snapshot = facts.snapshot.as_deref().unwrap_or("latest");
    vec![
        "Look at the source: is its disk mounted (findmnt, df), is the path still the right one?".to_owned(),
        "If something enciphers or deletes it: take the machine off the network first".to_owned(),
        format!(
            "What was there comes back from the last whole snapshot: snap restore {} --component {} --target DIR",
            first.last_whole, first.component
        ),
        format!("If it is right so, say so, and it counts as whole: snap tag {snapshot}{names}"),
        "If it will often be so: max_shrink or suspect of the component in the configuration".to_owned(),
    ]
}
