//! Buckets on a private S3 server that the tests share.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::BucketLocationConstraint;
use snap::store::{Lease, S3Location, S3Options, S3Store};

/// The one user of the server.
pub const ACCESS_KEY: &str = "testing";
/// His secret.
pub const SECRET_KEY: &str = "testingsecret";
/// Region of all buckets.
pub const REGION: &str = "ap-northeast-1";

/// A running server.
pub struct Server {
    /// Its URL.
    pub endpoint: String,
    runtime: tokio::runtime::Runtime,
    /// Asks it for anything, also for what the program never does.
    pub client: Client,
}

/// Returns whether the server is not the one that tests start themselves: `SNAP_TEST_S3` names it.
pub fn is_other() -> bool {
    std::env::var_os("SNAP_TEST_S3").is_some()
}

/// Returns the server; none, and says why, where it is not installed. `SNAP_TEST_S3` names another one.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(start).as_ref()
}

/// Returns the server that the tests start themselves; none where another one is named, which `lacks` what a
/// test needs.
pub fn own_server(lacks: &str) -> Option<&'static Server> {
    if is_other() {
        println!("skipped: this server has no {lacks}");
        return None;
    }
    server()
}

fn start() -> Option<Server> {
    let endpoint = match std::env::var("SNAP_TEST_S3") {
        Ok(endpoint) => endpoint,
        Err(_) => {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/localstack");
            let output = Command::new(script).arg("ensure").output().expect("the script runs");
            if !output.status.success() {
                println!("skipped: no S3 server: {}", String::from_utf8_lossy(&output.stderr).trim());
                return None;
            }
            keep_alive();
            String::from_utf8(output.stdout).expect("a URL is text").trim().to_owned()
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime starts");
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
            aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
        ))
        .build_https();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .endpoint_url(&endpoint)
        .force_path_style(true)
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .build();
    Some(Server { endpoint, runtime, client: Client::from_conf(config) })
}

/// Says again and again that the server is in use.
fn keep_alive() {
    let folder = std::env::var("SNAP_TEST_SERVERS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers").to_owned());
    std::thread::spawn(move || {
        loop {
            let _ = std::fs::write(format!("{folder}/localstack/used"), b"");
            std::thread::sleep(Duration::from_secs(10));
        }
    });
}

/// What a bucket is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No versions, no locks.
    Plain,
    /// Versions, which can be locked.
    Locking,
}

/// A fresh bucket.
pub struct Bucket {
    /// The server that holds it.
    pub server: &'static Server,
    /// Its name.
    pub name: String,
}

impl Server {
    /// Waits for what is asked of the server.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Makes a bucket.
    pub fn bucket(&'static self, kind: Kind) -> Bucket {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut random = [0; 4];
        snap::stage::seal::random(&mut random).expect("random bytes");
        let name = format!("snap-{}-{number}-{:08x}", std::process::id(), u32::from_le_bytes(random));
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
            .location_constraint(BucketLocationConstraint::from(REGION))
            .build();
        // Other servers know no regions of Amazon's.
        let place = Some(place).filter(|_| !is_other());
        let request = self.client.create_bucket().bucket(&name).set_create_bucket_configuration(place);
        let request = request.object_lock_enabled_for_bucket(kind == Kind::Locking);
        self.wait(request.send()).expect("bucket is made");
        Bucket { server: self, name }
    }
}

impl Bucket {
    /// Returns the location of a repository in it.
    pub fn location(&self) -> String {
        format!("s3://{}/some/where", self.name)
    }

    /// Returns how tests reach it.
    pub fn options(&self) -> S3Options {
        S3Options {
            endpoint: Some(self.server.endpoint.clone()),
            region: Some(REGION.to_owned()),
            path_style: true,
            credentials: Some(snap::store::S3Keys::new(ACCESS_KEY, SECRET_KEY)),
            ..S3Options::default()
        }
    }

    /// Returns the store at [`Self::location`].
    pub fn store(&self) -> S3Store {
        self.store_with(self.options())
    }

    /// Returns the store at [`Self::location`], reached in another way.
    pub fn store_with(&self, options: S3Options) -> S3Store {
        let location: S3Location = self.location().parse().expect("a location");
        S3Store::open(location, options).expect("the store opens")
    }

    /// Returns the store, with locks that last for so many seconds unless they are renewed.
    pub fn store_with_lease(&self, lasts_s: u64, renewed_every_s: u64) -> S3Store {
        let lease = Lease {
            lasts: Duration::from_secs(lasts_s),
            renewed_every: Duration::from_secs(renewed_every_s),
        };
        self.store_with(S3Options { lease, ..self.options() })
    }

    /// Returns the key of a file of the repository.
    pub fn key(&self, path: &str) -> String {
        format!("some/where/{path}")
    }

    /// Puts an object past the store, on top of whatever is there.
    pub fn plant(&self, path: &str, bytes: &[u8]) {
        let request = self.server.client.put_object().bucket(&self.name).key(self.key(path));
        let request = request.body(bytes.to_vec().into());
        self.server.wait(request.send()).expect("object is put");
    }

    /// Deletes an object past the store, which leaves a marker where there are versions.
    pub fn delete(&self, path: &str) {
        let request = self.server.client.delete_object().bucket(&self.name).key(self.key(path));
        self.server.wait(request.send()).expect("object is deleted");
    }

    /// Returns the paths of all objects of the repository.
    pub fn files(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut pages = self
            .server
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(self.key(""))
            .into_paginator()
            .send();
        self.server.wait(async {
            while let Some(page) = pages.next().await {
                for object in page.expect("objects list").contents() {
                    let key = object.key().expect("an object has a key");
                    all.push(key.strip_prefix("some/where/").expect("lies in the repository").to_owned());
                }
            }
        });
        all
    }
}
