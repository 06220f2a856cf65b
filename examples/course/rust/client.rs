//! client n_A n_B IP_A IP_B: n_A files of server A, the next n_B of server B, and so on; both at once.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Fetches files one after another, on one connection.
fn fetch(ip: &str, names: &[String]) -> Outcome {
    let mut server = TcpStream::connect((ip, 4455))?;
    server.set_nodelay(true)?;
    let mut answers = BufReader::new(server.try_clone()?);
    for name in names {
        write!(server, "GET /{name} HTTP/1.1\r\nHost: {ip}:4455\r\n\r\n")?;
        let bytes = head(&mut answers)?;
        let part = format!("{name}.part");
        let copied = io::copy(&mut answers.by_ref().take(bytes), &mut fs::File::create(&part)?)?;
        if copied < bytes {
            return Err(format!("{ip} closed the connection within {name}").into());
        }
        fs::rename(part, name)?;
    }
    Ok(())
}

/// Reads the head of an answer; returns the length of its body.
fn head(answers: &mut impl BufRead) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    if line.split(' ').nth(1) != Some("200") {
        return Err(format!("the server answered: {}", line.trim()).into());
    }
    let mut bytes = None;
    loop {
        line.clear();
        answers.read_line(&mut line)?;
        if line.trim().is_empty() {
            return bytes.ok_or_else(|| "an answer has no length".into());
        }
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                bytes = Some(value.trim().parse()?);
            }
        }
    }
}

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().collect();
    let (n_a, n_b): (usize, usize) = (words[1].parse()?, words[2].parse()?);
    let list = fs::read_to_string(std::env::var("FILES")?)?;
    let mut shares = [Vec::new(), Vec::new()];
    for (at, name) in list.lines().enumerate() {
        shares[usize::from(at % (n_a + n_b) >= n_a)].push(name.to_string());
    }
    let threads: Vec<_> = words[3..5]
        .iter()
        .cloned()
        .zip(shares)
        .map(|(ip, names)| std::thread::spawn(move || fetch(&ip, &names)))
        .collect();
    for thread in threads {
        thread.join().expect("no thread panics")?;
    }
    Ok(())
}
