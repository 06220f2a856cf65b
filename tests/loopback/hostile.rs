//! The client against servers that answer wrongly, beside one that answers well: a table of answers, and
//! what must come of each. Every run has to end, with every file that the good server can bring.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::support::{TWINLINK, odd_server, of_event, read_request, records, run_end, stderr};
use sha2::{Digest, Sha256};

const FILES: usize = 8;
/// A server that is asked more often than this is asked again without end.
const MOST_REQUESTS: usize = 150;

/// The content of `x{index}`: no two files are alike.
fn content(index: usize) -> Vec<u8> {
    let bytes = 3000 + 100 * (index as u64 % 5);
    let seed = (index as u64 + 1) << 32;
    (0..bytes).map(|i| ((seed + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn sums() -> Vec<u8> {
    let line = |i| {
        let digest = Sha256::digest(content(i));
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}  x{i}\n")
    };
    (0..FILES).map(line).collect::<String>().into_bytes()
}

/// A request for a file, or for the list.
struct Asked {
    head: bool,
    path: String,
    /// The first byte and one past the last, of a range.
    range: Option<(usize, usize)>,
    body: Vec<u8>,
    /// How many requests for a file came before it.
    number: usize,
}

impl Asked {
    fn parse(request: &str, number: usize) -> Asked {
        let path = request.split(' ').nth(1).unwrap().to_string();
        let index = path.rsplit_once('x').and_then(|(_, digits)| digits.parse().ok());
        let body = index.map_or(Vec::new(), content);
        let range = request.lines().find_map(|line| line.strip_prefix("Range: bytes="));
        let range = range.map(|range| {
            let (from, last) = range.split_once('-').unwrap();
            (from.parse().unwrap(), last.parse().map_or(body.len(), |last: usize| last + 1).min(body.len()))
        });
        Asked { head: request.starts_with("HEAD"), path, range, body, number }
    }

    fn is_list(&self) -> bool {
        self.path == "/SHA256SUMS"
    }

    /// The part that was asked for.
    fn part(&self) -> &[u8] {
        self.range.map_or(&self.body[..], |(from, to)| &self.body[from..to])
    }

    /// A right answer, with more header fields.
    fn right(&self, fields: &str) -> Reply {
        let len = self.body.len();
        if self.range.is_some_and(|(from, _)| from >= len) {
            let head = format!("HTTP/1.1 416 R\r\nContent-Range: bytes */{len}\r\nContent-Length: 0\r\n\r\n");
            return Reply(head.into_bytes(), Then::Keep);
        }
        let status = match self.range {
            Some((from, to)) => {
                format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{len}", to - 1)
            }
            None => "200 OK".to_string(),
        };
        let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n", self.part().len());
        let mut wire = head.into_bytes();
        if !self.head {
            wire.extend_from_slice(self.part());
        }
        Reply(wire, Then::Keep)
    }

    /// A status line and header fields, then the whole file.
    fn whole(&self, head: &str) -> Reply {
        Reply([format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), &self.body].concat(), Then::Keep)
    }

    /// The same, with the part that was asked for.
    fn partial(&self, head: &str) -> Reply {
        Reply([format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), self.part()].concat(), Then::Keep)
    }
}

/// The bytes that go out on a connection, and what the server does then.
struct Reply(Vec<u8>, Then);

enum Then {
    Keep,
    Close,
    /// Says nothing more, and waits.
    Hang,
    /// The last `usize` bytes of what went out over and over.
    Repeat(usize),
    /// Sends the bytes one by one, with this pause.
    Slowly(Duration),
}

type Answer = fn(&Asked) -> Option<Reply>;

/// Starts a server that answers as `answer` says, and well where that says nothing. Returns its address and
/// a count of the requests for files.
fn server(listed: bool, answer: Answer) -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let address = odd_server(move |_, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let is_file = request.starts_with("GET") && !request.contains("SHA256SUMS");
            let asked = Asked::parse(&request, counted.fetch_add(usize::from(is_file), Ordering::SeqCst));
            let Reply(wire, then) = answer(&asked).unwrap_or_else(|| well(&asked, listed));
            if !send(&mut stream, &wire, then) {
                return;
            }
        }
    });
    (address.to_string(), count)
}

fn well(asked: &Asked, listed: bool) -> Reply {
    if !asked.is_list() {
        return asked.right("");
    }
    let sums = sums();
    if listed {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sums.len());
        Reply([head.as_bytes(), &sums].concat(), Then::Keep)
    } else {
        Reply(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Keep)
    }
}

/// Returns whether the connection goes on.
fn send(stream: &mut TcpStream, wire: &[u8], then: Then) -> bool {
    match then {
        Then::Keep => stream.write_all(wire).is_ok(),
        Then::Close => {
            let _ = stream.write_all(wire);
            false
        }
        Then::Hang => {
            let _ = stream.write_all(wire);
            let _ = stream.read_to_end(&mut Vec::new());
            false
        }
        Then::Repeat(last) => {
            let again = wire[wire.len() - last..].repeat(64);
            // Bounded, lest a client that takes it all fills the disk.
            let mut sent = 0;
            let mut going = stream.write_all(wire).is_ok();
            while going && sent < 50_000_000 {
                going = stream.write_all(&again).is_ok();
                sent += again.len();
            }
            let _ = stream.read_to_end(&mut Vec::new());
            false
        }
        Then::Slowly(pause) => {
            for byte in wire {
                if stream.write_all(&[*byte]).is_err() {
                    return false;
                }
                std::thread::sleep(pause);
            }
            true
        }
    }
}

/// Runs the client, and ends it when it does not end by itself.
fn run(args: &[&str]) -> Output {
    let socket = tempfile::tempdir().unwrap();
    let mut child = Command::new(TWINLINK)
        .arg("client")
        .args(args)
        .env("TWINLINK_CONTROL", socket.path().join("control.sock"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |from: &mut dyn Read| {
        let mut all = Vec::new();
        from.read_to_end(&mut all).map(|_| all).unwrap()
    };
    std::thread::scope(|scope| {
        let stdout = scope.spawn(|| read(&mut out));
        let stderr = scope.spawn(|| read(&mut err));
        let deadline = Instant::now() + Duration::from_secs(90);
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    child.kill().unwrap();
                    let _ = child.wait();
                    panic!("the client does not end: {args:?}");
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    })
}

fn pattern() -> String {
    format!("x{{0..{}}}", FILES - 1)
}

/// The texts of all faults of a run.
fn faults(output: &Output) -> String {
    let records = records(output);
    let faults = of_event(&records, "fault").into_iter();
    faults.map(|fault| format!("{}: {}\n", fault["what"], fault["action"])).collect()
}

/// Checks that a run ended well and brought every file right.
fn assert_all_right(output: &Output, out: &std::path::Path, whose: &str) {
    assert!(output.status.success(), "{whose}: {}\n{}", stderr(output), faults(output));
    let records = records(output);
    assert_eq!(run_end(&records)["exit"], "ok", "{whose}");
    for index in 0..FILES {
        let found = fs::read(out.join(format!("x{index}"))).unwrap();
        assert!(found == content(index), "{whose}: x{index} is wrong: {}", faults(output));
    }
}

/// A server's answers, and a word of the fault that they must cause, if any.
struct Row {
    name: &'static str,
    answer: Answer,
    fault: Option<&'static str>,
}

const fn row(name: &'static str, fault: Option<&'static str>, answer: Answer) -> Row {
    Row { name, answer, fault }
}

/// The schedule by which the bad server alone has to bring all files, so that its fault is seen. With the
/// others the good server may have brought them all before the bad one answers.
const ALL_OF_THE_BAD: &str = "ratio=1:0";

/// Runs each row with each schedule, with and without a list of digests, some at a time.
fn check(rows: &[Row]) {
    let mut cases = Vec::new();
    for row in rows {
        for schedule in ["greedy", "adaptive", "ratio=0:1", ALL_OF_THE_BAD] {
            for listed in [true, false] {
                cases.push((row, schedule, listed));
            }
        }
    }
    let cases = Mutex::new(cases.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some((row, schedule, listed)) = cases.lock().unwrap().next() else { return };
                    let whose =
                        format!("{}, {schedule}, {}", row.name, if listed { "listed" } else { "unlisted" });
                    if std::panic::catch_unwind(|| check_one(row, schedule, listed, &whose)).is_err() {
                        failed.lock().unwrap().push(whose);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}

fn check_one(row: &Row, schedule: &str, listed: bool, whose: &str) {
    let (hostile, count) = server(listed, row.answer);
    let (good, _) = server(listed, |_| None);
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    let files = pattern();
    let args = ["--files", &files, "--schedule", schedule, "--give-up", "2s", "--out", dir, &hostile, &good];
    let output = run(&args);
    // Nobody else brings what the bad server does not.
    if schedule != ALL_OF_THE_BAD {
        assert_all_right(&output, out.path(), whose);
    }
    let asked = count.load(Ordering::SeqCst);
    assert!(asked <= MOST_REQUESTS, "{whose}: asked {asked} times");
    if let Some(fault) = row.fault.filter(|_| schedule == ALL_OF_THE_BAD) {
        assert!(faults(&output).contains(fault), "{whose}: {}", faults(&output));
    }
}

/// Breaks the first answers off, so that ranges are asked for, and answers ranges as `range` does.
fn after_a_break(asked: &Asked, range: impl Fn(&Asked, usize, usize) -> Reply) -> Option<Reply> {
    if asked.is_list() || asked.head {
        return None;
    }
    match asked.range {
        Some((from, to)) => Some(range(asked, from, to)),
        None if asked.number < 2 => {
            let Reply(wire, _) = asked.right("ETag: \"v\"\r\n");
            Some(Reply(wire[..wire.len() - asked.body.len() / 2].to_vec(), Then::Close))
        }
        None => Some(asked.right("ETag: \"v\"\r\n")),
    }
}

#[test]
fn bad_ranges_are_asked_for_once() {
    let whole = Some("asked for whole files from now on");
    check(&[
        row("206 with Content-Length 0", whole, |asked| {
            after_a_break(asked, |asked, from, to| {
                let len = asked.body.len();
                let range = format!("Content-Range: bytes {from}-{}/{len}", to - 1);
                Reply(
                    format!("HTTP/1.1 206 P\r\n{range}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
                    Then::Keep,
                )
            })
        }),
        row("206 without Content-Range, from 0", whole, |asked| {
            after_a_break(asked, |asked, _, _| {
                asked.whole(&format!("206 P\r\nContent-Length: {}", asked.body.len()))
            })
        }),
        row("206 without Content-Range or length, endless", whole, |asked| {
            after_a_break(asked, |asked, _, _| Reply(asked.whole("206 P").0, Then::Repeat(100)))
        }),
        row("206 of an unknown total, endless", Some("where it ends"), |asked| {
            after_a_break(asked, |asked, from, to| {
                let reply = asked.partial(&format!("206 P\r\nContent-Range: bytes {from}-{}/*", to - 1));
                Reply(reply.0, Then::Repeat(100))
            })
        }),
        row("one byte short", whole, |asked| {
            after_a_break(asked, |asked, from, to| {
                let range = format!("bytes {from}-{}/{}", to - 2, asked.body.len());
                let head = format!(
                    "HTTP/1.1 206 P\r\nContent-Range: {range}\r\nContent-Length: {}\r\n\r\n",
                    to - from - 1
                );
                Reply([head.as_bytes(), &asked.body[from..to - 1]].concat(), Then::Keep)
            })
        }),
        row("one byte off", whole, |asked| {
            after_a_break(asked, |asked, from, to| {
                let range = format!("bytes {}-{}/{}", from + 1, to - 1, asked.body.len());
                let head = format!(
                    "HTTP/1.1 206 P\r\nContent-Range: {range}\r\nContent-Length: {}\r\n\r\n",
                    to - from - 1
                );
                Reply([head.as_bytes(), &asked.body[from + 1..to]].concat(), Then::Keep)
            })
        }),
        row("another range", whole, |asked| {
            after_a_break(asked, |asked, _, _| {
                let head = format!(
                    "HTTP/1.1 206 P\r\nContent-Range: bytes 0-9/{}\r\nContent-Length: 10\r\n\r\n",
                    asked.body.len()
                );
                Reply([head.as_bytes(), &asked.body[..10]].concat(), Then::Keep)
            })
        }),
        row("several ranges", whole, |asked| {
            after_a_break(asked, |asked, _, _| {
                let fields = "Content-Type: multipart/byteranges; boundary=b\r\nContent-Length";
                asked.partial(&format!("206 P\r\n{fields}: {}", asked.part().len()))
            })
        }),
        row("a range that is none", whole, |asked| {
            after_a_break(asked, |asked, _, _| {
                asked.partial(&format!(
                    "206 P\r\nContent-Range: bytes=-5-x/y\r\nContent-Length: {}",
                    asked.part().len()
                ))
            })
        }),
        row("a negative range", whole, |asked| {
            after_a_break(asked, |asked, _, to| {
                asked.partial(&format!(
                    "206 P\r\nContent-Range: bytes -1-{to}/{to}\r\nContent-Length: {}",
                    asked.part().len()
                ))
            })
        }),
        row("chunked ranges", None, |asked| {
            after_a_break(asked, |_, _, _| {
                Reply(
                    b"HTTP/1.1 206 P\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n".to_vec(),
                    Then::Keep,
                )
            })
        }),
        row("200 for a range", None, |asked| {
            after_a_break(asked, |asked, _, _| {
                asked.whole(&format!("200 OK\r\nETag: \"v\"\r\nContent-Length: {}", asked.body.len()))
            })
        }),
        row("200 for a range, endless", Some("where it ends"), |asked| {
            after_a_break(asked, |asked, _, _| {
                Reply(asked.whole("200 OK\r\nETag: \"v\"").0, Then::Repeat(100))
            })
        }),
        row("206 where no range was asked for", Some("a request for all of"), |asked| {
            (!asked.is_list() && !asked.head).then(|| {
                let head =
                    format!("206 P\r\nContent-Range: bytes 0-9/{}\r\nContent-Length: 10", asked.body.len());
                Reply([format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), &asked.body[..10]].concat(), Then::Keep)
            })
        }),
        row("416 for every range", Some("answered 416"), |asked| {
            after_a_break(asked, |_, _, _| {
                Reply(
                    b"HTTP/1.1 416 R\r\nContent-Range: bytes */3\r\nContent-Length: 0\r\n\r\n".to_vec(),
                    Then::Keep,
                )
            })
        }),
    ]);
}

/// Answers each request for a file with `reply`.
fn file(asked: &Asked, reply: impl Fn(&Asked) -> Reply) -> Option<Reply> {
    (!asked.is_list() && !asked.head).then(|| reply(asked))
}

#[test]
fn bad_lengths_do_no_harm() {
    check(&[
        row("a size above 2^43", Some("no file may have more than"), |asked| {
            file(asked, |asked| asked.whole("200 OK\r\nContent-Length: 8796093022209"))
        }),
        row("a range of a file above 2^43", Some("18446744073709551615"), |asked| {
            file(asked, |asked| {
                let length = asked.body.len();
                asked.whole(&format!(
                    "206 P\r\nContent-Range: bytes 0-{}/18446744073709551615\r\nContent-Length: {length}",
                    length - 1
                ))
            })
        }),
        row("200 without a length, endless", Some("where it ends"), |asked| {
            file(asked, |asked| Reply(asked.whole("200 OK").0, Then::Repeat(100)))
        }),
        row("HTTP/1.0 200 without a length, endless", Some("where it ends"), |asked| {
            file(asked, |asked| {
                Reply([b"HTTP/1.0 200 OK\r\n\r\n", &asked.body[..]].concat(), Then::Repeat(100))
            })
        }),
        row("HTTP/1.0 200 that ends with its connection", None, |asked| {
            file(asked, |asked| Reply([b"HTTP/1.0 200 OK\r\n\r\n", &asked.body[..]].concat(), Then::Close))
        }),
        row("a signed length", Some("Content-Length is \\\"+"), |asked| {
            file(asked, |asked| asked.whole(&format!("200 OK\r\nContent-Length: +{}", asked.body.len())))
        }),
        row("a huge length", Some("no file may have more than"), |asked| {
            file(asked, |asked| asked.whole("200 OK\r\nContent-Length: 18446744073709551615"))
        }),
        row("a length beyond numbers", Some("no file may have more than"), |asked| {
            file(asked, |asked| asked.whole("200 OK\r\nContent-Length: 99999999999999999999999"))
        }),
        row("two lengths", Some("two different Content-Lengths"), |asked| {
            file(asked, |asked| asked.whole("200 OK\r\nContent-Length: 5\r\nContent-Length: 6"))
        }),
        row("a length twice", None, |asked| {
            file(asked, |asked| {
                let len = asked.body.len();
                asked.whole(&format!("200 OK\r\nContent-Length: {len}\r\nContent-Length: {len}"))
            })
        }),
        row("length and chunks", Some("chunked"), |asked| {
            file(asked, |asked| asked.whole("200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked"))
        }),
        row("chunks and trailers", Some("chunked"), |asked| {
            file(asked, |_| {
                Reply(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n"
                        .to_vec(),
                    Then::Keep,
                )
            })
        }),
        row("half of each file, then the end", None, |asked| {
            file(asked, |asked| {
                let Reply(wire, _) = asked.right("");
                Reply(wire[..wire.len() - asked.part().len() / 2].to_vec(), Then::Close)
            })
        }),
        row("half of each file, another ETag each time", None, |asked| {
            file(asked, |asked| {
                let Reply(wire, _) = asked.right(&format!("ETag: \"{}\"\r\n", asked.number));
                Reply(wire[..wire.len() - asked.part().len() / 2].to_vec(), Then::Close)
            })
        }),
        row("the whole file cut, another ETag each time", None, |asked| {
            file(asked, |asked| {
                let head =
                    format!("200 OK\r\nETag: \"{}\"\r\nContent-Length: {}", asked.number, asked.body.len());
                let Reply(wire, _) = asked.whole(&head);
                Reply(wire[..wire.len() - asked.body.len() / 2].to_vec(), Then::Close)
            })
        }),
    ]);
}

#[test]
fn bad_heads_do_no_harm() {
    check(&[
        row("interim answers for ever", Some("interim"), |asked| {
            file(asked, |_| Reply(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), Then::Repeat(25)))
        }),
        row("interim answers now and then", None, |asked| {
            file(asked, |asked| {
                Reply([b"HTTP/1.1 103 E\r\nLink: x\r\n\r\n", &asked.right("").0[..]].concat(), Then::Keep)
            })
        }),
        row("a head of 1 MB", Some("longer than 32 KiB"), |asked| {
            file(asked, |asked| asked.right(&format!("X: {}\r\n", "y".repeat(1_000_000))))
        }),
        row("a head that never ends", Some("malformed"), |asked| {
            file(asked, |_| Reply(b"HTTP/1.1 200 OK\r\nX: y\r\n".to_vec(), Then::Repeat(6)))
        }),
        row("a head a byte at a time", None, |asked| {
            file(asked, |asked| Reply(asked.right("").0, Then::Slowly(Duration::from_millis(50))))
        }),
        row("a zero byte in the head", Some("malformed"), |asked| {
            file(asked, |asked| asked.right("X: a\0b\r\n"))
        }),
        row("no reason, and a space before a colon", None, |asked| {
            file(asked, |asked| asked.whole(&format!("200\r\nContent-Length : {}", asked.body.len())))
        }),
        row("an empty line before each answer", None, |asked| {
            file(asked, |asked| Reply([b"\r\n", &asked.right("").0[..]].concat(), Then::Keep))
        }),
        row("an empty line after each answer", None, |asked| {
            file(asked, |asked| Reply([&asked.right("").0[..], b"\r\n"].concat(), Then::Keep))
        }),
        row("something after each answer", Some("nobody asked for"), |asked| {
            file(asked, |asked| Reply([&asked.right("").0[..], b"more"].concat(), Then::Close))
        }),
        row("304", Some("answered 304"), |asked| file(asked, |asked| asked.whole("304 Not Modified"))),
        row("204", Some("answered 204"), |asked| {
            file(asked, |_| Reply(b"HTTP/1.1 204 No\r\n\r\n".to_vec(), Then::Keep))
        }),
        row("404 with a page of 1 MB", Some("answered 404"), |asked| {
            file(asked, |_| {
                Reply(
                    [b"HTTP/1.1 404 N\r\nContent-Length: 1000000\r\n\r\n", &[b'x'; 1_000_000][..]].concat(),
                    Then::Keep,
                )
            })
        }),
        row("500", Some("answered 500"), |asked| {
            file(asked, |_| Reply(b"HTTP/1.1 500 E\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Keep))
        }),
        row("the connection closes after each answer", None, |asked| {
            file(asked, |asked| Reply(asked.right("").0, Then::Close))
        }),
        row("silence", None, |asked| file(asked, |_| Reply(Vec::new(), Then::Hang))),
        row("an HTML page for each file", None, |asked| {
            file(asked, |_| {
                Reply(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".to_vec(),
                    Then::Keep,
                )
            })
        }),
        row("compressed", Some("Content-Encoding"), |asked| {
            file(asked, |_| {
                Reply(
                    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\ngzip".to_vec(),
                    Then::Keep,
                )
            })
        }),
        row("another digest", None, |asked| {
            let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
            file(asked, |asked| {
                let Reply(mut wire, then) = asked.right(&format!("Repr-Digest: {digest}\r\n"));
                let end = wire.len() - 1;
                wire[end] ^= 1;
                Reply(wire, then)
            })
        }),
        row("redirects to another host", Some("else.where"), |asked| {
            file(asked, |asked| {
                asked.whole(&format!("302 Found\r\nLocation: http://else.where{}", asked.path))
            })
        }),
        row("redirects to https", Some("https://"), |asked| {
            file(asked, |_| {
                Reply(
                    b"HTTP/1.1 301 M\r\nLocation: https://127.0.0.1/x\r\nContent-Length: 0\r\n\r\n".to_vec(),
                    Then::Keep,
                )
            })
        }),
        row("redirects without a Location", Some("without a Location"), |asked| {
            file(asked, |_| Reply(b"HTTP/1.1 302 F\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Keep))
        }),
        row("redirects for ever", Some("more than 5 times"), |asked| {
            file(asked, |asked| {
                let head =
                    format!("HTTP/1.1 302 F\r\nLocation: /a{}\r\nContent-Length: 0\r\n\r\n", asked.path);
                Reply(head.into_bytes(), Then::Keep)
            })
        }),
        row("HEAD says 0", None, |asked| {
            asked.head.then(|| Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Keep))
        }),
        row("HEAD says another size", None, |asked| {
            asked.head.then(|| Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_vec(), Then::Keep))
        }),
        row("HEAD says more", None, |asked| {
            asked
                .head
                .then(|| Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n".to_vec(), Then::Keep))
        }),
        row("HEAD never ends", None, |asked| {
            asked.head.then(|| Reply(b"HTTP/1.1 200 OK\r\nX".to_vec(), Then::Hang))
        }),
    ]);
}

/// Fetches from one server alone, as `ratio=1:0` does, and checks what came.
fn from_one(listed: bool, answer: Answer, more: &[&str]) -> (Output, usize) {
    let (odd, count) = server(listed, answer);
    let (good, _) = server(listed, |_| None);
    let out = tempfile::tempdir().unwrap();
    let (dir, files) = (out.path().to_str().unwrap(), pattern());
    let args = ["--files", &files, "--schedule", "ratio=1:0", "--out", dir];
    let output = run(&[&args[..], more, &[&odd, &good]].concat());
    assert_all_right(&output, out.path(), "from one server");
    (output, count.load(Ordering::SeqCst))
}

#[test]
fn redirects_to_the_same_host_are_followed() {
    let answer: Answer = |asked| {
        let moved = asked.path.starts_with("/moved/");
        file(asked, |asked| match moved {
            true => asked.right(""),
            false => {
                let head = format!(
                    "HTTP/1.1 302 F\r\nLocation: /moved{}\r\nContent-Length: 4\r\n\r\nmove",
                    asked.path
                );
                Reply(head.into_bytes(), Then::Keep)
            }
        })
    };
    for listed in [true, false] {
        let (output, count) = from_one(listed, answer, &["--give-up", "5s"]);
        assert_eq!(faults(&output), "");
        assert_eq!(count, 2 * FILES);
    }
}

#[test]
fn a_busy_server_is_waited_for_as_it_asks() {
    for status in ["429", "503"] {
        let answer: Answer = match status {
            "429" => |asked| {
                (asked.number == 2).then_some(())?;
                file(asked, |_| {
                    Reply(
                        b"HTTP/1.1 429 T\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".to_vec(),
                        Then::Keep,
                    )
                })
            },
            _ => |asked| {
                (asked.number == 2).then_some(())?;
                file(asked, |_| {
                    Reply(
                        b"HTTP/1.1 503 B\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".to_vec(),
                        Then::Close,
                    )
                })
            },
        };
        let (output, count) = from_one(true, answer, &["--give-up", "20s", "--pipeline", "1"]);
        let faults = faults(&output);
        assert!(faults.contains("asks to wait 1 s (Retry-After)"), "{faults}");
        assert!(faults.contains("trying again in 1 s"), "{faults}");
        assert_eq!(count, FILES + 1, "it is asked again once");
    }
}

#[test]
fn a_server_busy_beyond_give_up_is_named() {
    let answer: Answer = |asked| {
        file(asked, |_| {
            Reply(b"HTTP/1.1 429 T\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Keep)
        })
    };
    let (odd, count) = server(true, answer);
    let (good, _) = server(true, |_| None);
    let args = ["--schedule", "ratio=1:0", "--give-up", "2s"];
    let output = run(&[&args[..], &[&odd, &good]].concat());
    assert!(stderr(&output).contains("asks to wait 1 h (Retry-After)"), "{}", stderr(&output));
    assert!(stderr(&output).contains("is not to be asked again within 2 s"), "{}", stderr(&output));
    assert_eq!(run_end(&records(&output))["exit"], "server_away");
    assert!(count.load(Ordering::SeqCst) <= 3);
}

#[test]
fn a_body_whose_digest_fits_passes_as_encoded() {
    let (output, _) =
        from_one(true, |asked| file(asked, |asked| asked.right("Content-Encoding: gzip\r\n")), &[]);
    assert_eq!(faults(&output), "");
}

/// A server that answers the first request of each packet only.
fn drops_pipelined(listed: bool) -> String {
    odd_server(move |_, mut stream| {
        let mut packet = [0; 64 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut packet) {
            let text = String::from_utf8_lossy(&packet[..read]).into_owned();
            let asked = Asked::parse(text.split("\r\n\r\n").next().unwrap(), 0);
            if !send(&mut stream, &well(&asked, listed).0, Then::Keep) {
                return;
            }
        }
    })
    .to_string()
}

#[test]
fn requests_dropped_behind_the_first_spoil_no_file() {
    for (listed, verify) in
        [(false, "--no-verify"), (true, "--no-verify"), (false, "--resume"), (true, "--resume")]
    {
        for (schedule, pipeline) in
            [("ratio=1:0", "auto"), ("ratio=1:0", "8"), ("greedy", "8"), ("adaptive", "auto")]
        {
            let out = tempfile::tempdir().unwrap();
            let (dir, files) = (out.path().to_str().unwrap(), pattern());
            let (odd, good) = (drops_pipelined(listed), server(listed, |_| None).0);
            let output = run(&[
                "--files",
                &files,
                "--schedule",
                schedule,
                "--pipeline",
                pipeline,
                "--give-up",
                "6s",
                verify,
                "--out",
                dir,
                &odd,
                &good,
            ]);
            assert_all_right(&output, out.path(), &format!("{listed}, {verify}, {schedule}, {pipeline}"));
        }
    }
}

#[test]
fn a_server_with_other_files_is_dropped_and_told_of_once() {
    let cases: &[(&str, Answer)] = &[
        ("other digests", |asked| {
            let digest = format!("Repr-Digest: sha-256=:{}=:\r\n", "A".repeat(43));
            file(asked, |asked| asked.right(&digest))
        }),
        ("other digests, shorter", |asked| {
            let digest = format!("Repr-Digest: sha-256=:{}=:", "A".repeat(43));
            file(asked, |_| {
                let head = format!("HTTP/1.1 200 OK\r\n{digest}\r\nContent-Length: 5\r\n\r\nother");
                Reply(head.into_bytes(), Then::Keep)
            })
        }),
    ];
    for (name, answer) in cases {
        for schedule in ["greedy", "adaptive", "inorder", "ratio=1:1"] {
            let (odd, count) = server(true, *answer);
            let (good, _) = server(true, |_| None);
            let out = tempfile::tempdir().unwrap();
            let dir = out.path().to_str().unwrap();
            let output = run(&["--schedule", schedule, "--pipeline", "1", "--out", dir, &good, &odd]);
            let faults = faults(&output);
            let told = faults.lines().count();
            assert!(told <= 2, "{name}, {schedule}: {faults}");
            if schedule != "ratio=1:1" {
                assert_all_right(&output, out.path(), &format!("{name}, {schedule}"));
                assert!(count.load(Ordering::SeqCst) <= 3, "{name}, {schedule}");
                assert!(
                    told < 2 || faults.contains("not asked for any more; server a brings them"),
                    "{faults}"
                );
            }
        }
    }
}

#[test]
fn a_probe_follows_redirects_and_waits_for_busy_servers() {
    let cases: &[(&str, bool, Answer)] = &[
        ("moved on the same host", true, |asked| {
            let moved = asked.path.starts_with("/moved/");
            file(asked, |asked| match moved {
                true => asked.right(""),
                false => {
                    let place = format!("Location: /moved{}", asked.path);
                    let head = format!("HTTP/1.1 302 F\r\n{place}\r\nContent-Length: 4\r\n\r\nmove");
                    Reply(head.into_bytes(), Then::Keep)
                }
            })
        }),
        ("busy for the first request", true, |asked| {
            (asked.number == 0).then_some(())?;
            file(asked, |_| {
                let head = b"HTTP/1.1 503 B\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
                Reply(head.to_vec(), Then::Close)
            })
        }),
        ("to http://elsewhere", false, |asked| {
            file(asked, |asked| {
                let place = format!("Location: http://elsewhere{}", asked.path);
                Reply(
                    format!("HTTP/1.1 302 F\r\n{place}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
                    Then::Keep,
                )
            })
        }),
        ("answered 302 to a request", false, |asked| {
            file(asked, |asked| {
                let place = format!("Location: /a{}", asked.path);
                Reply(
                    format!("HTTP/1.1 302 F\r\n{place}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
                    Then::Keep,
                )
            })
        }),
        ("answers 503 to a request", false, |asked| {
            file(asked, |_| {
                let head = b"HTTP/1.1 503 B\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n";
                Reply(head.to_vec(), Then::Keep)
            })
        }),
    ];
    for (name, well, answer) in cases {
        let (odd, _) = server(true, *answer);
        let (good, _) = server(true, |_| None);
        let output = run(&["--probe=on", "--give-up", "8s", "--schedule", "ratio=1:0", &odd, &good]);
        assert_eq!(output.status.success(), *well, "{name}: {}", stderr(&output));
        let records = records(&output);
        let probes = of_event(&records, "probe");
        let downs = probes.iter().filter(|probe| probe["direction"] == "down" && probe["link"] == "a");
        assert_eq!(
            downs.filter(|probe| probe["goodput_kbit"].as_f64() > Some(0.0)).count(),
            usize::from(*well)
        );
        assert!(*well || stderr(&output).contains(name), "{name}: {}", stderr(&output));
    }
}

#[test]
fn a_client_that_stands_still_before_a_transfer_goes_on() {
    for held in ["GET /SHA256SUMS", "GET /x0", "PUT /sink"] {
        let (asking, asked) = mpsc::channel();
        let (allow, allowed) = mpsc::channel();
        // Holds the first such request until the client has stood still.
        let hold = Mutex::new(Some((asking, allowed)));
        let odd = odd_server(move |_, mut stream| {
            while let Some(request) = read_request(&mut stream) {
                if request.starts_with(held)
                    && let Some((asking, allowed)) = hold.lock().unwrap().take()
                {
                    asking.send(()).unwrap();
                    allowed.recv().unwrap();
                }
                let Reply(wire, then) = match request.starts_with("PUT") {
                    true => Reply(b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Keep),
                    false => well(&Asked::parse(&request, 0), true),
                };
                if !send(&mut stream, &wire, then) {
                    return;
                }
            }
        });
        let (good, _) = server(true, |_| None);
        let socket = tempfile::tempdir().unwrap();
        let client = Command::new(TWINLINK)
            .args(["client", "--probe=on", "--give-up", "3s", "--schedule", "greedy"])
            .args([&odd.to_string(), &good])
            .env("TWINLINK_CONTROL", socket.path().join("control.sock"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = client.id().to_string();
        let signal =
            |signal: &str| assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        asked.recv_timeout(Duration::from_secs(60)).unwrap();
        signal("-STOP");
        std::thread::sleep(Duration::from_secs(4));
        allow.send(()).unwrap();
        signal("-CONT");
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success(), "{held}: {}", stderr(&output));
    }
}

/// Runs against a server with this answer for its list, and a good one.
fn with_list(answer: Answer, more: &[&str]) -> Output {
    let (odd, _) = server(true, answer);
    let (good, _) = server(true, |_| None);
    run(&[more, &["--give-up", "2s", &odd, &good]].concat())
}

#[test]
fn what_is_no_list_is_said_and_done_without() {
    let cases: &[(&str, Answer)] = &[
        ("an HTML page", |asked| {
            asked.is_list().then(|| {
                Reply(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".to_vec(),
                    Then::Keep,
                )
            })
        }),
        ("something that is not a manifest", |asked| {
            asked
                .is_list()
                .then(|| Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Keep))
        }),
        ("something that is not a manifest", |asked| {
            asked.is_list().then(|| Reply(b"HTTP/1.1 200 OK\r\n\r\naaaaaaaaaa".to_vec(), Then::Repeat(10)))
        }),
        ("Content-Encoding br", |asked| {
            asked.is_list().then(|| {
                Reply(
                    b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nxx".to_vec(),
                    Then::Keep,
                )
            })
        }),
        ("answered 500", |asked| {
            asked
                .is_list()
                .then(|| Reply(b"HTTP/1.1 500 E\r\nContent-Length: 2\r\n\r\nxx".to_vec(), Then::Keep))
        }),
        ("https://else.where/", |asked| {
            asked.is_list().then(|| {
                Reply(
                    b"HTTP/1.1 302 E\r\nLocation: https://else.where/\r\nContent-Length: 0\r\n\r\n".to_vec(),
                    Then::Keep,
                )
            })
        }),
    ];
    for (word, answer) in cases {
        for more in [&[][..], &["--files", "x{0..7}", "--no-verify"]] {
            let output = with_list(*answer, more);
            assert!(output.status.success(), "{word}: {}", stderr(&output));
            assert_eq!(run_end(&records(&output))["files"], FILES);
            assert!(faults(&output).contains(word), "{word}: {}", faults(&output));
            assert!(stderr(&output).contains(word), "{word}: {}", stderr(&output));
        }
    }
}

#[test]
fn no_list_anywhere_is_an_error_that_says_files() {
    let page: Answer = |_| {
        Some(Reply(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".to_vec(),
            Then::Keep,
        ))
    };
    let (a, b) = (server(false, page).0, server(false, page).0);
    let output = run(&["--give-up", "2s", &a, &b]);
    assert!(
        stderr(&output).contains("an HTML page") && stderr(&output).contains("--files"),
        "{}",
        stderr(&output)
    );
    assert_eq!(run_end(&records(&output))["exit"], "no_list");
    let output = run(&["--files", "x0", "--give-up", "2s", &a, &b]);
    assert!(stderr(&output).contains("sends an HTML page for x0"), "{}", stderr(&output));
    assert_eq!(run_end(&records(&output))["exit"], "missing_file");
}

#[test]
fn a_list_that_is_busy_or_moved_is_waited_for() {
    static BUSY: AtomicUsize = AtomicUsize::new(0);
    let busy: Answer = |asked| {
        (asked.is_list() && BUSY.fetch_add(1, Ordering::SeqCst) == 0).then(|| {
            Reply(b"HTTP/1.1 503 B\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Close)
        })
    };
    let output = with_list(busy, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(faults(&output).contains("asks to wait 1 s"), "{}", faults(&output));
    assert_eq!(BUSY.load(Ordering::SeqCst), 2);

    let moved: Answer = |asked| {
        asked
            .is_list()
            .then(|| {
                Reply(b"HTTP/1.1 301 M\r\nLocation: there\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Keep)
            })
            .or_else(|| {
                (asked.path == "/there").then(|| {
                    Reply(
                        [
                            format!(
                                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n\u{feff}",
                                sums().len() + 3
                            )
                            .as_bytes(),
                            &sums(),
                        ]
                        .concat(),
                        Then::Keep,
                    )
                })
            })
    };
    let output = with_list(moved, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(faults(&output), "");
}

#[test]
fn what_comes_before_the_transfer_is_bounded() {
    let cases: &[(&str, Answer)] = &[
        ("its answer is not complete", |asked| {
            asked.is_list().then(|| Reply(well(asked, true).0, Then::Slowly(Duration::from_millis(200))))
        }),
        ("interim", |asked| {
            asked.is_list().then(|| Reply(b"HTTP/1.1 100 C\r\n\r\n".to_vec(), Then::Repeat(18)))
        }),
        ("did not answer", |asked| asked.is_list().then(|| Reply(Vec::new(), Then::Hang))),
        ("answers 503", |asked| {
            asked.is_list().then(|| {
                Reply(b"HTTP/1.1 503 B\r\nRetry-After: 99\r\nContent-Length: 0\r\n\r\n".to_vec(), Then::Close)
            })
        }),
    ];
    for (word, answer) in cases {
        let output = with_list(*answer, &[]);
        assert!(stderr(&output).contains(word), "{word}: {}", stderr(&output));
        assert_eq!(run_end(&records(&output))["exit"], "unreachable");
    }
    // Sizes are a hint, also where they have to be known before the clock starts.
    let slow: Answer =
        |asked| asked.head.then(|| Reply(asked.right("").0, Then::Slowly(Duration::from_millis(200))));
    let output = with_list(slow, &["--schedule", "rates=1000:1000"]);
    assert!(output.status.success(), "{}", stderr(&output));
}
