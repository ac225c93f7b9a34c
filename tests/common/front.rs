//! A front of an S3 server that hears each request, and does with it what a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// The server answers it.
    Pass,
    /// It is answered with this status and code, and the server hears nothing of it.
    Refuse(u16, &'static str),
    /// The server does it, and its answer is this one.
    DoAndRefuse(u16, &'static str),
    /// Its head is read, nothing more, and nobody ever says anything.
    TakeNothing,
    /// It is read, all of it, and nobody ever says anything.
    Swallow,
    /// Its body is read at so many bytes a second, then the server answers.
    Slow(u64),
    /// The connection is cut.
    Cut,
}

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, `PUT`, …
    pub method: String,
    /// Path and query.
    pub target: String,
}

type Rule = dyn Fn(&Asked) -> Act + Send + Sync;

/// Listens, and passes on what is not to be broken.
pub struct Front {
    /// Where it listens.
    pub endpoint: String,
    heard: Arc<Mutex<Vec<Asked>>>,
}

/// Bytes of a connection that the system keeps until they are read: few, as on a real line.
const KEPT_BYTES: usize = 32 << 10;

impl Front {
    /// Stands before `http://host:port`.
    pub fn start(to: &str, rule: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, KEPT_BYTES).expect("buffers are set");
        let endpoint = format!("http://{}", listener.local_addr().expect("it has an address"));
        let to = to.trim_start_matches("http://").to_owned();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (rule, hears): (Arc<Rule>, _) = (Arc::new(rule), heard.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (to, rule, hears) = (to.clone(), rule.clone(), hears.clone());
                std::thread::spawn(move || while serve(&client, &to, &*rule, &hears).is_some() {});
            }
        });
        Self { endpoint, heard }
    }

    /// Returns what was heard, and forgets it.
    pub fn heard(&self) -> Vec<Asked> {
        std::mem::take(&mut self.heard.lock().expect("nobody panics"))
    }
}

/// Serves one request; none if the connection is over.
fn serve(client: &TcpStream, to: &str, rule: &Rule, heard: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut from = BufReader::with_capacity(8 << 10, client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut words = head.split(' ');
    let asked = Asked { method: words.next()?.to_owned(), target: words.next()?.to_owned() };
    let act = rule(&asked);
    heard.lock().expect("nobody panics").push(asked.clone());
    let headers = || head.lines().filter_map(|line| line.split_once(':'));
    let length = headers().find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    let length: usize = length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
    if matches!(act, Act::TakeNothing) {
        forever(client);
    }
    let mut body = vec![0; length];
    let rate = if let Act::Slow(rate) = act { usize::try_from(rate).ok()? } else { usize::MAX };
    for piece in body.chunks_mut(rate.div_ceil(10)) {
        from.read_exact(piece).ok()?;
        if rate != usize::MAX {
            std::thread::sleep(Duration::from_millis(100)); // the rate itself, not a wait for anything
        }
    }
    match act {
        Act::Swallow => forever(client),
        Act::Cut => client.shutdown(Shutdown::Both).ok().and(None),
        Act::Refuse(status, code) => refuse(client, &asked, status, code),
        Act::DoAndRefuse(status, code) => {
            pass(to, &head, &body)?;
            refuse(client, &asked, status, code)
        }
        _ => {
            let (answer, is_open) = pass(to, &head, &body)?;
            let mut client = client;
            client.write_all(&answer).ok()?;
            match is_open {
                true => Some(()),
                false => client.shutdown(Shutdown::Both).ok().and(None),
            }
        }
    }
}

/// Keeps a connection open for as long as the test runs.
fn forever(_client: &TcpStream) -> ! {
    loop {
        std::thread::park();
    }
}

fn refuse(mut client: &TcpStream, asked: &Asked, status: u16, code: &str) -> Option<()> {
    let text = match asked.method.as_str() {
        "HEAD" => String::new(),
        _ => format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>because the test says so</Message></Error>"
        ),
    };
    let length = text.len();
    let head =
        format!("HTTP/1.1 {status} so\r\nContent-Length: {length}\r\nContent-Type: application/xml\r\n\r\n");
    client.write_all(format!("{head}{text}").as_bytes()).ok()
}

/// Returns the server's answer, and whether the client can tell where it ends.
fn pass(to: &str, head: &str, body: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut server = TcpStream::connect(to).ok()?;
    let (first, rest) = head.split_once("\r\n")?;
    let kept = rest.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let kept: String = kept.map(|line| format!("{line}\r\n")).collect();
    server.write_all(format!("{first}\r\nConnection: close\r\n{kept}").as_bytes()).ok()?;
    server.write_all(body).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    Some((answer, false))
}
