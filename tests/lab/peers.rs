//! Real programs of others on either side of the wire: curl, aria2c, wget2 and lftp fetch from our servers, our client fetches
//! from nginx and from Python's http.server, and from nginx beside ours. Every file arrives with the right digest, and
//! ranges, HEAD and kept connections are as those programs expect.

use std::fs;

use serde_json::Value;

use crate::fixture::{Inside, Lab, Log, between, eventually, have, is_success, number, stdout_of};

fn lab_of_peers(programs: &[&str], change: impl FnOnce(Lab) -> Lab) -> Option<Inside> {
    if !have(programs) {
        return None;
    }
    change(Lab::serving(160, "500KB").once()).enter()
}

const PYTHON: &str = "python3 -m http.server {PORT} --bind {ADDR} --directory {DATA}";

/// As few directives as nginx starts with, and no file of its outside the test's folder. The name keeps two apart.
const NGINX: &str = "daemon off; worker_processes 1; error_log stderr; pid {NAME}.pid; user root; events {}
http {
    access_log off; client_body_temp_path {NAME}.body; proxy_temp_path {NAME}.proxy;
    fastcgi_temp_path {NAME}.fastcgi; uwsgi_temp_path {NAME}.uwsgi; scgi_temp_path {NAME}.scgi;
    server { listen 4455; root {DATA}; }
}";

/// Returns a server's command for nginx.
fn nginx() -> String {
    format!(
        "sh -c 'mkdir -p {{WORK}}/{{NAME}} && cd {{WORK}}/{{NAME}} && echo \"{}\" >conf && exec nginx -p . -e stderr -c conf'",
        NGINX.replace('\n', " ")
    )
}

impl Inside {
    /// Expects all 160 files in a folder, with the digests of the set that was served.
    fn expect_all(&self, folder: &str) {
        self.sh(&format!("cd {folder} && sha256sum --check --quiet {}/SHA256SUMS", self.data.display()));
        assert_eq!(self.sh(&format!("find {folder} -type f | wc -l")), "160");
    }

    /// Runs our client against whatever the servers are. The links have a rate, since bytes that still come after a
    /// cancellation are wasted, and a link without a rate brings any number of them before its server hears of it.
    fn fetch(&self, name: &str, options: &[&str]) -> Log {
        let rates = ["--link-a", "rate-80", "--link-b", "rate-80", "--out", name];
        let log = self.client(name, &[&rates[..], options].concat()).well();
        self.expect_all(name);
        assert_eq!(log.of("segment").len(), 160);
        log.expect_no_fault();
        assert!(["a", "b"].iter().all(|link| !log.of_link("segment", link).is_empty()));
        // Both links may bring the end of a file, within the schedule's limit.
        between(
            "share of bytes thrown away",
            number(&log.end()["wasted_bytes"]) / number(&log.end()["bytes"]),
            0.0,
            0.02,
        );
        log
    }

    /// Returns curl's words about an answer, such as `%{http_code}`; the body goes into `body`, the head into `head`.
    fn curl(&self, format: &str, options: &[&str]) -> String {
        let fixed = ["-sS", "-m", "20", "-o", "body", "-D", "head", "-w", format];
        stdout_of(&mut self.command("curl", &[&fixed[..], options].concat()))
    }

    fn header(&self, name: &str) -> String {
        let head = fs::read_to_string(self.path("head")).unwrap();
        let value = head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_string())
        });
        value.unwrap_or_else(|| panic!("no {name} in {head}"))
    }
}

fn software<'a>(log: &'a Log, link: &str) -> &'a str {
    log.start()["servers"][link]["software"].as_str().unwrap().split('/').next().unwrap()
}

fn verified(log: &Log) -> usize {
    log.of("segment").iter().filter(|data| data["digest_ok"] == true).count()
}

#[test]
fn curl_gets_ranges_heads_and_kept_connections() {
    let Some(lab) = lab_of_peers(&["curl"], |lab| lab) else { return };
    let url = "http://server-a:4455/s001.m4s";
    let whole = fs::read(lab.data.join("s001.m4s")).unwrap();
    let size = whole.len();
    let body = || fs::read(lab.path("body")).unwrap();
    let status = |options: &[&str]| lab.curl("%{http_code}", options);
    assert_eq!(status(&["-r", "100-299", url]), "206");
    assert_eq!(lab.header("content-range"), format!("bytes 100-299/{size}"));
    assert!(body() == whole[100..300]);
    assert_eq!(status(&["-r", "1000-", url]), "206");
    assert!(body() == whole[1000..]);
    assert_eq!(status(&["-r", "-500", url]), "206");
    assert_eq!(lab.header("content-range"), format!("bytes {}-{}/{size}", size - 500, size - 1));
    assert!(body() == whole[size - 500..]);
    assert_eq!(status(&["-r", &format!("{size}-"), url]), "416");
    assert_eq!(lab.header("content-range"), format!("bytes */{size}"));
    // curl takes up a file where an earlier download of it stopped.
    fs::write(lab.path("resumed"), &whole[..4321]).unwrap();
    stdout_of(&mut lab.command("curl", &["-sS", "-m", "20", "-C", "-", "-o", "resumed", url]));
    assert!(fs::read(lab.path("resumed")).unwrap() == whole);

    assert_eq!(lab.sh(&format!("curl -sS -m 20 -I -o head -w '%{{http_code}}' {url}")), "200");
    assert_eq!(lab.header("content-length"), size.to_string());
    assert_eq!(lab.header("accept-ranges"), "bytes");
    let etag = lab.header("etag");
    assert_eq!(status(&["-r", "100-299", "-H", &format!("If-Range: {etag}"), url]), "206");
    assert!(body() == whole[100..300]);
    assert_eq!(status(&["-r", "100-299", "-H", "If-Range: \"other\"", url]), "200");
    assert!(body() == whole);
    assert_eq!(status(&["-H", &format!("If-None-Match: {etag}"), url]), "304");
    assert_eq!(status(&["http://server-a:4455/none.m4s"]), "404");

    let two =
        format!("curl -sS -m 20 -w '%{{num_connects}} ' -o one {url} -o two http://server-a:4455/s002.m4s");
    assert_eq!(lab.sh(&two).trim(), "1 0");
    assert!(fs::read(lab.path("one")).unwrap() == whole);
    assert!(fs::read(lab.path("two")).unwrap() == fs::read(lab.data.join("s002.m4s")).unwrap());
    lab.sh(&format!(
        "curl -sS -m 20 http://server-b:4455/SHA256SUMS | cmp - {}/SHA256SUMS",
        lab.data.display()
    ));
}

#[test]
fn aria2c_chooses_between_both_servers() {
    let Some(lab) = lab_of_peers(&["aria2c"], |lab| lab) else { return };
    let sums = fs::read_to_string(lab.data.join("SHA256SUMS")).unwrap();
    let names = sums.lines().map(|line| line.split_whitespace().last().unwrap());
    let line = |name: &str| format!("http://server-a:4455/{name}\thttp://server-b:4455/{name}\n");
    let list: String = names.map(line).collect();
    assert_eq!(list.lines().count(), 160);
    lab.write("list", &list);
    lab.sh("aria2c --no-conf --quiet -j2 -s2 -x1 --input-file=list --dir=aria2");
    lab.expect_all("aria2");
}

#[test]
fn aria2c_fetches_by_metalink() {
    let Some(lab) = lab_of_peers(&["aria2c"], |lab| lab) else { return };
    // A Metalink names both servers, so that aria2c chooses and checks the digests.
    lab.sh("\"$TWINLINK_BIN\" manifest --metalink server-a server-b >list.meta4");
    assert_eq!(lab.sh("grep -c '<file ' list.meta4"), "160");
    lab.sh("aria2c --no-conf --quiet -j2 --metalink-file=list.meta4 --dir=metalink");
    lab.expect_all("metalink");
}

#[test]
fn aria2c_fetches_parts_of_a_large_file_from_both() {
    let change = |lab: Lab| lab.segments(1, "3MB").option("--server-logs", "{WORK}/served");
    let Some(lab) = lab_of_peers(&["aria2c"], change) else { return };
    let both = "http://server-a:4455/s001.m4s http://server-b:4455/s001.m4s";
    // Without a rate, one server may have sent the whole before the other one is asked.
    let hold = "\"$TWINLINK_BIN\" link hold --link-a rate-20 --link-b rate-20 --";
    lab.sh(&format!("{hold} aria2c --no-conf --quiet -s2 -x1 --min-split-size=1M --dir=halves {both}"));
    assert!(fs::read(lab.path("halves/s001.m4s")).unwrap() == fs::read(lab.data.join("s001.m4s")).unwrap());
    // It asks one server for the whole, reads that only up to the middle, and the other for the rest.
    // A server writes its record once it sees that the connection has ended.
    let requests = |link: &str| {
        let log = Log::read(&lab.path(&format!("served/server-{link}.jsonl")));
        let sent = log.of("request").into_iter().filter(|data| number(&data["bytes"]) > 0.0).cloned();
        sent.collect::<Vec<Value>>()
    };
    let has_sent = |link: &str| requests(link).iter().any(|data| data["target"] == "/s001.m4s");
    eventually("both have sent", || has_sent("a") && has_sent("b"));
    assert!([requests("a"), requests("b")].concat().iter().any(|data| data["status"] == 206));
}

#[test]
fn programs_of_the_experiment_with_peers_run() {
    let Some(lab) = lab_of_peers(&["curl", "aria2c", "wget2", "lftp"], |lab| lab) else { return };
    // Over its first links.
    let text = include_str!("../../experiments/peers.toml");
    let conditions: Vec<&str> = text.split_inclusive("[[condition]]\n").collect();
    let first = conditions[..2].concat();
    let replace = |line: &str| match line.split(' ').next() {
        Some("repetitions") => "repetitions = 1\n".to_string(),
        Some("files") => "files = \"s{001..020}.m4s\"\n".to_string(),
        _ => format!("{line}\n"),
    };
    let file: String = first.trim_end_matches("[[condition]]\n").lines().map(replace).collect();
    let file = lab.write("peers.toml", &file);
    stdout_of(&mut lab.twinlink(&["sweep", &file, "--results", "peers"]));
    lab.sh("cat peers/*/sweep.jsonl >sweep.jsonl");
    let log = Log::read(&lab.path("sweep.jsonl"));
    let cells = log.of("cell_end");
    assert_eq!(cells.len(), 10);
    for cell in cells {
        assert_eq!(cell["exit"], "ok", "{cell}");
        between("efficiency", number(&cell["efficiency"]), f64::MIN_POSITIVE, 1.0);
    }
}

#[test]
fn client_fetches_from_two_nginx() {
    let Some(lab) = lab_of_peers(&["nginx"], |lab| lab.server(&nginx())) else { return };
    let log = lab.fetch("nginx", &[]);
    assert_eq!([software(&log, "a"), software(&log, "b")], ["nginx", "nginx"]);
    assert_eq!(log.start()["servers"]["a"]["http_version"], "1.1");
    // All that is fetched from a server comes on one connection.
    assert_eq!(log.end()["links"]["a"]["connections"], 1);
    assert_eq!(verified(&log), 160);
    let log = lab.fetch("ratio", &["--schedule", "ratio=1:4"]);
    assert_eq!(log.of_link("segment", "b").len(), 128);
}

#[test]
fn client_fetches_from_two_python_servers() {
    let Some(lab) = lab_of_peers(&["python3"], |lab| lab.server(PYTHON)) else { return };
    let log = lab.fetch("python", &[]);
    assert_eq!(software(&log, "a"), "SimpleHTTP");
    // Python's server speaks HTTP/1.0: a connection for each file, and no ranges.
    assert_eq!(log.start()["servers"]["a"]["http_version"], "1.0");
    let connections = ["a", "b"].map(|link| number(&log.end()["links"][link]["connections"]));
    assert!(connections.iter().sum::<f64>() >= 160.0);
    assert_eq!(verified(&log), 160);
}

#[test]
fn files_without_a_list_have_no_verdict() {
    // Python's server once more, without the list: nothing can be checked, and the log says just that.
    let unlisted = "sh -c 'mkdir -p {WORK}/{NAME} && cp {DATA}/*.m4s {WORK}/{NAME} && \
                    exec python3 -m http.server {PORT} --bind {ADDR} --directory {WORK}/{NAME}'";
    let Some(lab) = lab_of_peers(&["python3"], |lab| lab.server(unlisted)) else { return };
    let log = lab.fetch("no-list", &[]);
    assert_eq!(log.start()["servers"]["a"]["digests"], false);
    assert!(log.of("segment").iter().all(|data| data["digest_ok"].is_null()));
}

#[test]
fn client_fetches_from_nginx_beside_ours() {
    let mixed = format!(
        "sh -c 'case {{NAME}} in server-a) exec {{PROGRAM}} server --data {{DATA}} ;; esac; exec {}'",
        nginx().replace('\'', "'\\''")
    );
    let Some(lab) = lab_of_peers(&["nginx"], |lab| lab.server(&mixed)) else { return };
    let log = lab.fetch("mixed", &[]);
    assert_eq!([software(&log, "a"), software(&log, "b")], ["twinlink", "nginx"]);
    assert_eq!(verified(&log), 160);
    assert!(is_success(&mut lab.twinlink(&["health", "server-a:4455"])));
}
