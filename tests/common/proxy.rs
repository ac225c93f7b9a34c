//! A way to a server that breaks where a test wants it to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// It is cut.
    Cut,
    /// It stays open, and nothing comes any more.
    Stall,
}

/// Forwards connections, and breaks some of them.
pub struct Proxy {
    /// Where it listens.
    pub endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    to: String,
    left: AtomicI64,
    bytes: AtomicU64,
    how: Break,
    broken: AtomicU64,
}

impl Proxy {
    /// Forwards to `http://host:port`. Each of the first `times` connections breaks once it has brought
    /// `bytes` bytes back.
    pub fn start(to: &str, times: i64, bytes: u64, how: Break) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let endpoint = format!("http://{}", listener.local_addr().expect("it has an address"));
        let to = to.trim_start_matches("http://").to_owned();
        let shared = Arc::new(Shared {
            to,
            left: AtomicI64::new(times),
            bytes: AtomicU64::new(bytes),
            how,
            broken: AtomicU64::new(0),
        });
        let each = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = each.clone();
                std::thread::spawn(move || shared.forward(client));
            }
        });
        Self { endpoint, shared }
    }

    /// Lets the next `times` connections break.
    pub fn break_next(&self, times: i64) {
        self.shared.left.store(times, Ordering::SeqCst);
    }

    /// Returns how many connections broke.
    pub fn broken(&self) -> u64 {
        self.shared.broken.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn forward(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.to) else { return };
        let (Ok(mut from), Ok(mut up)) = (client.try_clone(), server.try_clone()) else { return };
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut up);
            let _ = up.shutdown(Shutdown::Write);
        });
        self.bring_back(server, client);
    }

    fn bring_back(&self, mut server: TcpStream, mut client: TcpStream) {
        let (mut piece, mut brought) = ([0; 16 << 10], 0);
        while let Ok(length @ 1..) = server.read(&mut piece) {
            brought += length as u64;
            let is_due = brought > self.bytes.load(Ordering::SeqCst);
            if is_due && self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
                self.broken.fetch_add(1, Ordering::SeqCst);
                if self.how == Break::Stall {
                    let _ = client.read(&mut piece); // until the other side has had enough
                }
                break;
            }
            if client.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    }
}
