//! A container image as the file system of a sandbox: Docker builds or holds it, and it is unpacked into a folder, so
//! that a program of it runs in the lab's network, at the same limits, without Docker.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

/// An unpacked image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct UnpackedImage {
    pub root: PathBuf,
    /// The environment that it sets, as NAME=VALUE.
    pub environment: Vec<String>,
}

impl UnpackedImage {
    /// Returns the names and values of its environment.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().filter_map(|line| line.split_once('='))
    }
}

/// Builds the image of a folder with a Dockerfile; returns its name.
///
/// # Errors
/// Docker is not here or does not run, or a step of the file fails.
pub(crate) fn build(folder: &Path) -> Result<String> {
    let built = docker(&["build", "--quiet", &folder.to_string_lossy()])?;
    Ok(first_line(&built))
}

/// Removes an image that was built, unless it has a name of its own.
pub(crate) fn remove(image: &str) {
    if let Err(error) = docker(&["image", "rm", image]) {
        tracing::debug!("{error:#}");
    }
}

/// Unpacks an image into a new folder.
///
/// # Errors
/// There is no such image, or it cannot be unpacked.
pub(crate) fn unpack(image: &str, root: &Path) -> Result<UnpackedImage> {
    let format = "{{range .Config.Env}}{{println .}}{{end}}";
    let told = docker(&["image", "inspect", "--format", format, image])?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let environment = told.lines().filter(|line| line.contains('=')).map(String::from).collect();
    std::fs::create_dir(root).with_context(|| format!("cannot make {}", root.display()))?;
    // A container of an image without a command needs one, and never runs it.
    let container = first_line(&docker(&["create", image, "/none"])?);
    let unpacked = export(&container, root);
    docker(&["rm", &container])?;
    unpacked.map(|()| UnpackedImage { root: root.to_path_buf(), environment })
}

fn export(container: &str, root: &Path) -> Result<()> {
    let mut from = Command::new("docker")
        .args(["export", container])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run docker")?;
    let archive = from.stdout.take().context("docker has no output")?;
    // Devices need root, and the sandbox has its own.
    let to = Command::new("tar")
        .args(["--extract", "--exclude=dev/*", "--directory"])
        .arg(root)
        .stdin(archive)
        .output()
        .context("cannot run tar")?;
    let exported = from.wait().context("cannot wait for docker")?;
    ensure!(
        exported.success() && to.status.success(),
        "cannot unpack the image: {}",
        String::from_utf8_lossy(&to.stderr).trim()
    );
    Ok(())
}

fn docker(words: &[&str]) -> Result<Output> {
    let output = Command::new("docker").args(words).stdin(Stdio::null()).output();
    let output = output.context("cannot run docker, which images need: install it, or use no image")?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.trim().lines().last().unwrap_or("it printed nothing").to_string();
    Err(anyhow!("docker {} failed: {last}", words[0]))
}

fn first_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_string()
}
