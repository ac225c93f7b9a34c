//! Key files that somebody else has put there, as many and as costly as he likes: they slow down nobody who knows the
//! repository, and keep nobody from opening it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use age::x25519::{Identity, Recipient};
use snap::base::id::{KeyFileId, RepositoryId};
use snap::base::time::Time;
use snap::repo::config::{Choices, Encryption};
use snap::repo::keys::{
    KeyBody, KeyFile, NoSecrets, Passphrase, Secrets, WrappedIdentity, WriterKeys, seal_writer, wrap_identity,
};
use snap::repo::{Opening, RepoError, Repository};
use snap::stage::seal::Secret;
use snap::store::{Folder, LocalStore, LockingMemory, MemoryStore, Name, Store};

use crate::common::repo::create_sealed;
use crate::{Place, text};

const PASSPHRASE: &str = "correct horse";

/// Gives a passphrase, for one key file if one is named.
struct Typed {
    passphrase: &'static str,
    only: Option<String>,
}

impl Secrets for Typed {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(Some(Passphrase::new(self.passphrase.to_owned())))
    }

    fn identities(&self) -> Result<Vec<Identity>, RepoError> {
        Ok(Vec::new())
    }

    fn only_key(&self) -> Option<&str> {
        self.only.as_deref()
    }
}

/// Gives an identity.
struct Held(Identity);

impl Secrets for Held {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(None)
    }

    fn identities(&self) -> Result<Vec<Identity>, RepoError> {
        Ok(vec![self.0.clone()])
    }
}

fn stranger() -> WriterKeys {
    WriterKeys::new(Secret::from_bytes([7; 32]), Encryption::Age)
}

/// What a try of a passphrase takes: KiB of memory, passes, lanes.
#[derive(Clone, Copy)]
struct Price(u32, u32, u32);

const ORDINARY: Price = Price(64 << 10, 3, 4);
const CHEAP: Price = Price(64, 1, 1);
const DEAREST: Price = Price(1 << 20, 16, 16);

/// Returns a key file that no passphrase opens, as somebody makes one who does not have the writer secret.
fn forged(number: u32, price: Price) -> (KeyFileId, Vec<u8>) {
    let mut salt = [0; 16];
    salt[..4].copy_from_slice(&number.to_le_bytes());
    let wrapped =
        WrappedIdentity { memory_kib: price.0, passes: price.1, lanes: price.2, salt, sealed: vec![7; 150] };
    let recipient = Identity::generate().to_public().to_string();
    let body = KeyBody::Identity { recipient, label: "first".to_owned(), created: Time::new(0, 0), wrapped };
    KeyFile::build(&body, &stranger()).expect("it builds")
}

/// Returns the writer secret of somebody else, sealed to the recipients of a repository.
fn forged_sealing(recipients: &[Recipient]) -> (KeyFileId, Vec<u8>) {
    let age = seal_writer(stranger().secret(), recipients, 99).expect("it seals");
    KeyFile::build(&KeyBody::SealedWriter { age }, &stranger()).expect("it builds")
}

fn open_anew(store: Arc<dyn Store>, secrets: &dyn Secrets) -> Result<Repository, RepoError> {
    let state = tempfile::tempdir().expect("temporary folder");
    Repository::open(&Opening { store, state: state.path(), index: None, secrets })
}

/// Makes a repository in a directory; returns its recipients.
fn made(place: &Path) -> Vec<Recipient> {
    let store = Arc::new(LocalStore::new(place.join("repo")));
    let made = create_sealed(store, &place.join("state"), PASSPHRASE).expect("repository is made");
    made.recipients().expect("recipients are there")
}

fn plant(place: &Path, (id, bytes): (KeyFileId, Vec<u8>)) {
    fs::write(place.join("repo/keys").join(id.to_string()), bytes).expect("file is planted");
}

#[test]
fn the_right_passphrase_opens_beside_a_thousand_forged_key_files() {
    let place = tempfile::tempdir().expect("temporary folder");
    let recipients = made(place.path());
    for number in 0..1000 {
        let price = match number {
            0..15 => ORDINARY,
            15..500 => CHEAP,
            _ => DEAREST,
        };
        plant(place.path(), forged(number, price));
    }
    for _ in 0..20 {
        plant(place.path(), forged_sealing(&recipients));
    }
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(place.path().join("repo")));
    let typed = Typed { passphrase: PASSPHRASE, only: None };
    let begun = Instant::now();
    let opened = open_anew(store.clone(), &typed).expect("a new machine opens it");
    assert_eq!(opened.identities().map(<[_]>::len), Some(1));
    println!("1000 forged key files, a new machine: {:.1?}", begun.elapsed());
    let begun = Instant::now();
    let known = Opening { store, state: &place.path().join("state"), index: None, secrets: &NoSecrets };
    let known = Repository::open(&known).expect("opens");
    assert_eq!(known.unlock(&typed).expect("a machine that knows it unlocks it").len(), 1);
    println!("1000 forged key files, a machine that knows the repository: {:.1?}", begun.elapsed());
}

#[test]
fn each_try_of_a_passphrase_beyond_the_first_second_is_said() {
    const FORGED: u32 = 5;
    let place = Place::made(&[]);
    for number in 0..FORGED {
        plant(place.folder.path(), forged(number, Price(192 << 10, 1, 4)));
    }
    let mut wrong = place.command(&["snapshots"]);
    let wrong = wrong.env("SNAP_STATE_DIR", place.path("elsewhere")).env("SNAP_PASSWORD", "another horse");
    let output = wrong.output().expect("program runs");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let tries: Vec<&str> =
        said.lines().filter(|line| line.contains("the passphrase is tried on it")).collect();
    // What is said of the last one names all the others.
    let count = tries.len() as u32;
    assert!(count > 0, "they take more than a second: {said}");
    for (tried, line) in (FORGED + 1 - count..).zip(&tries) {
        assert!(line.contains(&format!(" {tried} of {} tried", FORGED + 1)), "{line}");
        assert!(line.contains("keys/") && line.contains("--key ID") && line.contains("192 MiB"), "{line}");
    }
}

#[test]
fn in_a_bucket_the_oldest_key_file_is_tried_first() {
    let bucket = LockingMemory::new(Time::new(1_767_000_000, 0));
    let state = tempfile::tempdir().expect("temporary folder");
    let made = create_sealed(Arc::new(bucket.clone()), state.path(), PASSPHRASE).expect("repository is made");
    let ours: Vec<_> =
        bucket.list(Folder::Keys).expect("lists").into_iter().map(|found| found.path).collect();
    bucket.set_now(Time::new(1_767_000_001, 0));
    let plant = |(id, bytes): (KeyFileId, Vec<u8>)| bucket.plant(&Name::Key(id).to_string(), &bytes);
    (0..1000).for_each(|number| plant(forged(number, ORDINARY)));
    plant(forged_sealing(&made.recipients().expect("recipients are there")));
    let listed = bucket.list_oldest_first(Folder::Keys).expect("lists");
    let first: Vec<_> = listed.iter().take(ours.len()).map(|found| found.path.clone()).collect();
    assert_eq!(first, ours);
    let begun = Instant::now();
    let typed = Typed { passphrase: PASSPHRASE, only: None };
    open_anew(Arc::new(bucket), &typed).expect("a new machine opens it");
    println!("1000 ordinary key files in a bucket, all younger: {:.1?}", begun.elapsed());
}

#[test]
fn one_key_file_alone_is_tried_if_it_is_named() {
    let place = tempfile::tempdir().expect("temporary folder");
    made(place.path());
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(place.path().join("repo")));
    let opening = Opening {
        store: store.clone(),
        state: &place.path().join("state"),
        index: None,
        secrets: &NoSecrets,
    };
    let keys = Repository::open(&opening).expect("opens").key_files().expect("lists");
    let is_ours = |body: &KeyBody| matches!(body, KeyBody::Identity { .. });
    let ours = keys.into_iter().flatten().find(|info| is_ours(&info.body)).expect("is there").id;
    let strange = forged(1, CHEAP);
    let other = strange.0;
    plant(place.path(), strange);
    let of = |only: String| Typed { passphrase: PASSPHRASE, only: Some(only) };
    open_anew(store.clone(), &of(ours.to_string()[..12].to_owned())).expect("opens");
    let refused = open_anew(store.clone(), &of(other.to_string())).err();
    assert!(matches!(refused, Some(RepoError::WrongPassphrase { tried: 1, .. })), "{refused:?}");
    let refused = open_anew(store, &of("0123456789abcdef".to_owned())).err().expect("is refused").to_string();
    assert!(refused.contains("--key 0123456789abcdef"), "{refused}");
}

#[test]
fn a_key_of_another_repository_under_the_same_passphrase_locks_nobody_out() {
    let place = tempfile::tempdir().expect("temporary folder");
    made(place.path());
    let elsewhere = WriterKeys::new(Secret::from_bytes([8; 32]), Encryption::Age);
    for (id, writer) in [(RepositoryId::from_bytes([1; 16]), &elsewhere), (id_of(place.path()), &elsewhere)] {
        let identity = Identity::generate();
        let body = KeyBody::Identity {
            recipient: identity.to_public().to_string(),
            label: String::new(),
            created: Time::new(0, 0),
            wrapped: wrap_identity(&identity, PASSPHRASE, id, writer).expect("wraps"),
        };
        plant(place.path(), KeyFile::build(&body, writer).expect("builds"));
    }
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(place.path().join("repo")));
    let opened = open_anew(store, &Typed { passphrase: PASSPHRASE, only: None }).expect("opens");
    assert_eq!(opened.identities().map(<[_]>::len), Some(1));
}

fn id_of(place: &Path) -> RepositoryId {
    let store = Arc::new(LocalStore::new(place.join("repo")));
    let opening = Opening { store, state: &place.join("state"), index: None, secrets: &NoSecrets };
    Repository::open(&opening).expect("opens").id()
}

#[test]
fn a_forged_writer_secret_is_passed_over_by_who_holds_an_identity() {
    let identity = Identity::generate();
    let disk = MemoryStore::default();
    let state = tempfile::tempdir().expect("temporary folder");
    let store: Arc<dyn Store> = Arc::new(disk.clone());
    let opening = Opening { store: store.clone(), state: state.path(), index: None, secrets: &NoSecrets };
    let recipients = [identity.to_public()];
    let made = Repository::create(&opening, Choices::default(), None, &recipients, Time::new(0, 0));
    let made = made.expect("repository is made");
    let source = tempfile::tempdir().expect("temporary folder");
    fs::write(source.path().join("message"), "message").expect("is written");
    let _ = crate::common::repo::backup(&made, source.path(), 1_767_100_000).expect("backs up");
    for _ in 0..8 {
        let (id, bytes) = forged_sealing(&recipients);
        disk.put_new(&Name::Key(id), &bytes).expect("is planted");
    }
    let opened = open_anew(store, &Held(identity)).expect("opens");
    assert_eq!(opened.writer_keys().mark(), made.writer_keys().mark());
    assert_eq!(opened.snapshots().expect("lists").all.len(), 1);
}

#[test]
fn a_damaged_key_file_is_damage_also_if_it_was_the_only_one_that_opens() {
    let place = Place::made(&[]);
    place.back_up("message");
    let only = place.key("passphrase");
    let path = place.path("repo/keys").join(&only);
    let whole = fs::read(&path).expect("reads");
    for harm in [&whole[..whole.len() / 2], b"", b"no key file"] {
        fs::write(&path, harm).expect("is damaged");
        let state = place.path("elsewhere");
        for (arguments, state) in [
            (&["check"][..], place.path("state")),
            (&["check", "--read-data"], place.path("state")),
            (&["check"], state.clone()),
            (&["check", "--read-data"], state.clone()),
        ] {
            let output = place.command(arguments).env("SNAP_STATE_DIR", &state).output().expect("runs");
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{arguments:?} {}: {said}", state.display());
            assert!(said.contains(&format!("damaged: keys/{only}")), "{arguments:?}: {said}");
        }
        // Whoever wants to read is told what it is.
        let at = format!("latest:{}", place.path("mail/message").display());
        let said = place.refused(&["cat", &at]);
        assert!(said.contains(&only) && said.contains("put back a good copy"), "{said}");
    }
    fs::write(&path, whole).expect("is put back");
    place.done(&["check", "--read-data"]);
}

/// Puts a manifest there that opens with somebody else's writer secret, and nothing else.
fn plant_snapshot_of(writer: &WriterKeys, disk: &MemoryStore) {
    let (elsewhere, state) = (MemoryStore::default(), tempfile::tempdir().expect("temporary folder"));
    let recipients = [Identity::generate().to_public()];
    let opening =
        Opening { store: Arc::new(elsewhere.clone()), state: state.path(), index: None, secrets: &NoSecrets };
    let other = Repository::create(&opening, Choices::default(), None, &recipients, Time::new(0, 0));
    let id = other.expect("is made").id();
    let kept = state.path().join(id.to_string()).join("writer");
    let mut bytes = fs::read(&kept).expect("reads");
    let end = bytes.len();
    bytes[end - 32..].copy_from_slice(writer.secret().expose());
    let payload = bytes.split_off(48);
    fs::write(&kept, snap::base::wire::wrap(snap::base::wire::RecordKind::WriterState, &payload))
        .expect("writes");
    let source = tempfile::tempdir().expect("temporary folder");
    fs::write(source.path().join("forged"), "forged").expect("is written");
    let other = Repository::open(&opening).expect("opens");
    let _ = other
        .put_manifest(&snap::stage::snapshot::Manifest { host: "forged".to_owned(), ..Default::default() })
        .expect("puts");
    for found in elsewhere.list(Folder::Snapshots).expect("lists") {
        let name = found.name.expect("a name");
        disk.put_new(&name, &elsewhere.read(&name, 1 << 20).expect("reads")).expect("is planted");
    }
}

/// A repository of one identity, with a snapshot in it.
fn of_one_identity() -> (Identity, MemoryStore, Repository) {
    let identity = Identity::generate();
    let disk = MemoryStore::default();
    let state = tempfile::tempdir().expect("temporary folder");
    let store: Arc<dyn Store> = Arc::new(disk.clone());
    let opening = Opening { store, state: state.path(), index: None, secrets: &NoSecrets };
    let recipients = [identity.to_public()];
    let made = Repository::create(&opening, Choices::default(), None, &recipients, Time::new(0, 0));
    let made = made.expect("repository is made");
    (identity, disk, made)
}

/// Gives an identity, and the mark of the writer secret that is meant.
struct Marked(Identity, String);

impl Secrets for Marked {
    fn passphrase(&self) -> Result<Option<Passphrase>, RepoError> {
        Ok(None)
    }

    fn identities(&self) -> Result<Vec<Identity>, RepoError> {
        Ok(vec![self.0.clone()])
    }

    fn writer_mark(&self) -> Option<&str> {
        Some(&self.1)
    }
}

#[test]
fn where_a_whole_forged_repository_agrees_with_itself_both_marks_are_listed_and_one_is_wanted() {
    let (identity, disk, made) = of_one_identity();
    let source = tempfile::tempdir().expect("temporary folder");
    fs::write(source.path().join("message"), "message").expect("is written");
    let _ = crate::common::repo::backup(&made, source.path(), 1_767_100_000).expect("backs up");
    let (id, bytes) = forged_sealing(&[identity.to_public()]);
    disk.put_new(&Name::Key(id), &bytes).expect("is planted");
    plant_snapshot_of(&stranger(), &disk);
    let store: Arc<dyn Store> = Arc::new(disk);
    let refused =
        open_anew(store.clone(), &Held(identity.clone())).err().expect("which is right is not known");
    let said = refused.to_string();
    for mark in [made.writer_keys().shown_mark(), stranger().shown_mark()] {
        assert!(said.contains(&format!("{mark} (1 snapshots, ")), "{said}");
    }
    assert!(said.contains("--writer-mark"), "{said}");
    assert!(said.contains(", 2 packs)") && said.contains(", 0 packs)"), "{said}");
    let marked = Marked(identity.clone(), made.writer_keys().shown_mark());
    let opened = open_anew(store.clone(), &marked).expect("opens");
    assert_eq!(opened.writer_keys().mark(), made.writer_keys().mark());
    let unknown = Marked(identity, "0123456789abcdef".to_owned());
    let said = open_anew(store, &unknown).err().expect("no such mark").to_string();
    assert!(said.contains("0123456789abcdef"), "{said}");
}

#[test]
fn a_secret_that_nothing_speaks_for_is_not_enrolled() {
    let (identity, disk, made) = of_one_identity();
    let store: Arc<dyn Store> = Arc::new(disk);
    let opened = open_anew(store.clone(), &Held(identity.clone())).expect("opens: there is one secret");
    let said = opened.enroll().expect_err("anybody may have sealed it").to_string();
    assert!(said.contains(&made.writer_keys().shown_mark()), "{said}");
    let marked = Marked(identity.clone(), made.writer_keys().shown_mark());
    open_anew(store.clone(), &marked).expect("opens").enroll().expect("its mark speaks for it");
    let source = tempfile::tempdir().expect("temporary folder");
    fs::write(source.path().join("message"), "message").expect("is written");
    let _ = crate::common::repo::backup(&made, source.path(), 1_767_100_000).expect("backs up");
    open_anew(store, &Held(identity)).expect("opens").enroll().expect("a snapshot speaks for it");
}

#[test]
fn a_passphrase_finds_its_writer_secret_in_the_packs_where_only_forged_ones_are_left() {
    let place = tempfile::tempdir().expect("temporary folder");
    let recipients = made(place.path());
    let store = Arc::new(LocalStore::new(place.path().join("repo")));
    let known = Opening {
        store: store.clone(),
        state: &place.path().join("state"),
        index: None,
        secrets: &NoSecrets,
    };
    let known = Repository::open(&known).expect("opens");
    let source = tempfile::tempdir().expect("temporary folder");
    fs::write(source.path().join("message"), "message").expect("is written");
    let _ = crate::common::repo::backup(&known, source.path(), 1_767_100_000).expect("backs up");
    for info in known.key_files().expect("lists").into_iter().flatten() {
        if let KeyBody::SealedWriter { .. } = info.body {
            store.delete(&Name::Key(info.id)).expect("goes");
        }
    }
    plant(place.path(), forged_sealing(&recipients));
    let opened = open_anew(store, &Typed { passphrase: PASSPHRASE, only: None }).expect("opens");
    assert_eq!(opened.writer_keys().mark(), known.writer_keys().mark());
    opened.enroll().expect("the mark was sealed in with the identity");
}

/// Returns the text of a `config` with other values.
fn edited(config: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(config).expect("text").replace(from, to);
    assert!(text.as_bytes() != config, "{from}");
    let body = text.split_once("checksum").expect("has a checksum").0;
    format!("{body}checksum = \"{}\"\n", blake3::hash(body.as_bytes())).into_bytes()
}

#[test]
fn of_several_configs_the_one_counts_that_fits_the_keys_and_the_snapshots() {
    let bucket = LockingMemory::new(Time::new(0, 0));
    let elsewhere = MemoryStore::default();
    let state = tempfile::tempdir().expect("temporary folder");
    let made = create_sealed(Arc::new(elsewhere.clone()), state.path(), PASSPHRASE).expect("is made");
    let source = tempfile::tempdir().expect("temporary folder");
    fs::write(source.path().join("message"), "message").expect("is written");
    let _ = crate::common::repo::backup(&made, source.path(), 1_767_100_000).expect("backs up");
    let own = made.config_bytes().to_vec();
    let id = made.id().to_string();
    // Before it, and on top: of another repository, without encryption, and one that is slow.
    let forged = [
        edited(&own, &id, "00112233445566778899aabbccddeeff"),
        edited(&own, "encryption = \"age\"", "encryption = \"none\""),
        edited(&own, "chunk_bytes_avg = 8192", "chunk_bytes_avg = 1024"),
        b"no config at all".to_vec(),
    ];
    for bytes in forged.iter().chain([&own]).chain(&forged) {
        bucket.plant("config", bytes);
    }
    for (path, bytes) in elsewhere.files().into_iter().filter(|(path, _)| path != "config") {
        bucket.plant(&path, &bytes);
    }
    let genuine = || -> Arc<dyn Store> {
        Arc::new(snap::store::GenuineStore::open(Arc::new(bucket.clone())).expect("versions list"))
    };
    let (typed, store) = (Typed { passphrase: PASSPHRASE, only: None }, genuine());
    let opened = open_anew(store.clone(), &typed).expect("a new machine opens it");
    assert_eq!(opened.config_bytes(), own);
    assert_eq!(store.read(&Name::Config, 1 << 16).expect("reads"), own, "whoever copies it gets this one");
    let known = Opening { store: genuine(), state: state.path(), index: None, secrets: &NoSecrets };
    assert_eq!(Repository::open(&known).expect("a machine that knows it opens it").config_bytes(), own);
    let nobody =
        open_anew(genuine(), &NoSecrets).err().expect("what is not sealed is not taken for it").to_string();
    assert!(nobody.contains("encryption \"age\"") && nobody.contains("--writer-mark"), "{nobody}");
}
