//! A real Dovecot serves mail out of a mount.
