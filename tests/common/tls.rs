//! A server's own authority, and TLS before a server that has none.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Listens with TLS.
pub struct Tls {
    /// Where.
    pub endpoint: String,
    /// The authority's certificate, in PEM.
    pub authority: PathBuf,
}

/// Runs `openssl`.
fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").current_dir(folder).args(arguments).output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Tls {
    /// Makes an authority and a certificate for `localhost` in `folder`, and stands before `http://host:port`.
    pub fn start(to: &str, folder: &Path) -> Self {
        let key = ["-newkey", "rsa:2048", "-nodes", "-sha256"];
        let ca = [
            "req",
            "-x509",
            "-days",
            "3650",
            "-subj",
            "/CN=Own authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ];
        openssl(folder, &[&ca[..], &key].concat());
        openssl(
            folder,
            &[&["req", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "csr.pem"], &key[..]].concat(),
        );
        std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").expect("writes");
        let sign = "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -sha256 -extfile names -out cert.pem";
        openssl(folder, &sign.split(' ').collect::<Vec<_>>());
        let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate], key).expect("they fit"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let endpoint =
            format!("https://localhost:{}", listener.local_addr().expect("it has an address").port());
        let to = to.trim_start_matches("http://").to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (to, config) = (to.clone(), config.clone());
                std::thread::spawn(move || forward(client, &to, config));
            }
        });
        Self { endpoint, authority: folder.join("ca.pem") }
    }
}

/// Passes bytes on in both directions until one of them ends.
fn forward(client: TcpStream, to: &str, config: Arc<ServerConfig>) -> Option<()> {
    let mut server = TcpStream::connect(to).ok()?;
    let mut client = StreamOwned::new(ServerConnection::new(config).ok()?, client);
    client.conn.complete_io(&mut client.sock).ok()?;
    let moment = Some(Duration::from_millis(2)); // each direction is looked at in turn
    client.sock.set_read_timeout(moment).ok()?;
    server.set_read_timeout(moment).ok()?;
    let mut piece = vec![0; 64 << 10];
    loop {
        let waits = |e: &std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
        match client.read(&mut piece) {
            Ok(0) => return None,
            Ok(length) => server.write_all(&piece[..length]).ok()?,
            Err(e) if waits(&e) => {}
            Err(_) => return None,
        }
        match server.read(&mut piece) {
            Ok(0) => {
                client.conn.send_close_notify();
                return client.flush().ok();
            }
            Ok(length) => client.write_all(&piece[..length]).ok()?,
            Err(e) if waits(&e) => {}
            Err(_) => return None,
        }
    }
}
