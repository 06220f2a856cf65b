//! Lists of files as other programs read them: SHA256SUMS, and Metalink 4 (RFC 5854), which names every server of
//! a file with its size and digest. Pure.

use std::fmt::Write;

use super::ManifestEntry;

/// Renders a list of digests as `sha256sum --check` reads it. Files without a digest are left out.
pub(crate) fn sums(files: &[ManifestEntry]) -> String {
    let line = |file: &ManifestEntry| Some(format!("{}  {}\n", file.digest?, file.name));
    files.iter().filter_map(line).collect()
}

/// Renders a Metalink of files with their sizes (bytes), each of which every host offers (`host:port`).
pub(crate) fn metalink(files: &[ManifestEntry], sizes: &[Option<u64>], hosts: &[String]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    text += "<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\">\n";
    // Writing to a String cannot fail.
    for (file, size) in files.iter().zip(sizes) {
        let _ = writeln!(text, "  <file name=\"{}\">", escaped(&file.name));
        if let Some(size) = size {
            let _ = writeln!(text, "    <size>{size}</size>");
        }
        if let Some(digest) = file.digest {
            let _ = writeln!(text, "    <hash type=\"sha-256\">{digest}</hash>");
        }
        for host in hosts {
            let url = escaped(&format!("http://{host}{}", file.path));
            let _ = writeln!(text, "    <url priority=\"1\">{url}</url>");
        }
        text += "  </file>\n";
    }
    text + "</metalink>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::parse_sums;
    use super::*;

    #[test]
    fn metalink_names_every_server_with_size_and_digest() {
        let digest = "1".repeat(64);
        let files = parse_sums(&format!("{digest}  a & b\n")).unwrap();
        let text = metalink(&files, &[Some(7)], &["x:1".into(), "y:2".into()]);
        let wanted = format!(
            "  <file name=\"a &amp; b\">\n    <size>7</size>\n    <hash type=\"sha-256\">{digest}</hash>\n    \
             <url priority=\"1\">http://x:1/a%20%26%20b</url>\n    <url priority=\"1\">http://y:2/a%20%26%20b</url>\n  \
             </file>\n</metalink>\n"
        );
        assert!(text.ends_with(&wanted), "{text}");
        assert!(!metalink(&files, &[None], &[]).contains("size"));
    }

    #[test]
    fn sums_read_back_as_they_were() {
        let text = format!("{}  x\n{}  y\n", "1".repeat(64), "2".repeat(64));
        assert_eq!(sums(&parse_sums(&text).unwrap()), text);
    }
}
