//! Messages, not files: who has which, what became of them night by night, and where one is.
//!
//! Mailboxes, folders and names are read from trees alone, which takes no passphrase; headers and texts from content, which
//! does. Nothing of anybody's mail is kept anywhere.

/// Trees of a component → mailboxes.
pub mod boxes;

/// Two nights of a mailbox → what became of its messages.
pub mod changes;

/// A mailbox → its folders, and the messages in them.
pub mod folders;

/// A snapshot → its mailboxes, counted.
pub mod users;

/// Start of a file → its bytes.
pub mod head;

/// A query → the messages of all nights that answer it.
pub mod find;

/// Messages → their headers, each frame read once.
pub mod headers;

/// What is asked of messages.
pub mod query;

/// One message → its bytes, or what people read in it.
pub mod show;
