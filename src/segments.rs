//! Sample segments: seeded, reproducible files that look like variable-bitrate video.
//!
//! A segment is a well-formed ISO base media file (a `styp` box, then one `mdat`), so that tools
//! recognise it; what is in the `mdat` is noise, so that no layer can compress it. The same seed,
//! count and mean give the same bytes on every platform and in every version: all arithmetic is in
//! integers, and the noise is ChaCha8, whose stream is fixed. Nothing here can be played; for that,
//! `server_data/from-video.sh` cuts a real video.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::manifest::SUMS;
use crate::results::Folder;
use crate::text::{count, print};
use crate::units::ByteCount;

const MAX_COUNT: u32 = 1_000_000;
/// Below this, the smallest segment would have no room for its boxes.
const LEAST_MEAN: u64 = 100;
/// Above this, the largest segment might not fit a box whose size has 32 bits.
const GREATEST_MEAN: u64 = 2_000_000_000;

/// `styp` (size, type, major brand, minor version, two compatible brands), then the head of `mdat`.
const BOXES: usize = 24 + 8;

/// The smallest and the largest segment, in millionths of the mean. The course's own set, with a
/// mean near 3.2 MB, runs from 2 068 304 to 3 830 861 bytes: 0.646 to 1.197 of it. The pair here has
/// a mean of 1 under the distribution that `weights` draws from.
const SMALLEST_PPM: u64 = 646_300;
const LARGEST_PPM: u64 = 1_196_500;

/// The stream of the generator that sizes are drawn from; segment number n has stream n.
const SIZES_STREAM: u64 = u64::MAX;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SegmentsArgs {
    /// Folder to write them to, created if missing
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// How many segments
    #[arg(long, default_value_t = 160, allow_hyphen_values = true)]
    pub count: u32,
    /// Their mean size
    #[arg(long, default_value = "500KB", value_name = "SIZE", allow_hyphen_values = true)]
    pub mean_size: ByteCount,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Writes the set that the arguments ask for. A file that is there already is left alone when it is
/// exactly what would be written, and is an error, before anything is written, when it is not.
pub(crate) fn main(args: SegmentsArgs) -> Result<()> {
    let set = Set::new(args.count, args.mean_size, args.seed)?;
    set.write(&args.dir).with_context(|| format!("cannot write the segments to {}", args.dir.display()))?;
    let segments = count(set.sizes.len() as u64, "segment");
    print(&format!("{segments}, {} bytes, in {}\n", set.bytes(), args.dir.display()))
}

/// A set of segments, before it is written.
pub(crate) struct Set {
    seed: u64,
    sizes: Vec<u64>,
}

impl Set {
    /// Draws the sizes. Their sum is exactly `count` times `mean`.
    ///
    /// # Errors
    /// When the count or the mean is out of range.
    pub(crate) fn new(count: u32, mean: ByteCount, seed: u64) -> Result<Set> {
        ensure!(
            (1..=MAX_COUNT).contains(&count),
            "cannot make {count} segments: ask for 1 to {MAX_COUNT} with --count"
        );
        ensure!(
            (LEAST_MEAN..=GREATEST_MEAN).contains(&mean.0),
            "cannot make segments of {mean} on average: ask for 100B to 2GB with --mean-size"
        );
        let weights = weights(count, seed);
        let whole: u64 = weights.iter().sum();
        let total = u128::from(mean.0) * u128::from(count);
        // Each size is the difference of two rounded sums, so that no rounding adds up.
        let mut sum = 0;
        let mut before = 0;
        let sizes = weights.iter().map(|weight| {
            sum += weight;
            let upto = (total * u128::from(sum) / u128::from(whole)) as u64;
            let size = upto - before;
            before = upto;
            size
        });
        Ok(Set { seed, sizes: sizes.collect() })
    }

    /// The sizes in bytes, in the order of the names.
    pub(crate) fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.sizes.iter().sum()
    }

    /// `s001.m4s` for index 0. All names have as many digits as the last one needs, at least three,
    /// so that they sort.
    pub(crate) fn name(&self, index: usize) -> String {
        let width = self.sizes.len().to_string().len().max(3);
        format!("s{:0width$}.m4s", index + 1)
    }

    /// Writes all segments and their `SHA256SUMS`, each under a hidden name first, mode 0644
    /// whatever the umask is.
    ///
    /// # Errors
    /// When a file is there with other bytes, or the folder cannot be written.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let folder = Folder::make(dir)?;
        self.refuse_to_overwrite(dir)?;
        let digests = self.for_each(|index| {
            let name = self.name(index);
            let mut file = NewFile::create(&folder, &name)?;
            let digest = self.generate(index, |bytes| file.write(bytes))?;
            file.finish()?;
            Ok(digest)
        })?;
        let mut sums = NewFile::create(&folder, SUMS)?;
        sums.write(self.sums(&digests).as_bytes())?;
        sums.finish()
    }

    /// Compares what is in the folder with what would be written. The folder is mostly empty, and
    /// then this costs one look at each name.
    fn refuse_to_overwrite(&self, dir: &Path) -> Result<()> {
        let names = (0..self.sizes.len()).map(|index| self.name(index)).chain([SUMS.to_string()]);
        let mut any = false;
        for name in names {
            any |= fs::symlink_metadata(dir.join(name)).is_ok();
        }
        if !any {
            return Ok(());
        }
        let digests = self.for_each(|index| {
            let there = digest_of_file(&dir.join(self.name(index)))?;
            let ours = self.generate(index, |_| Ok(()))?;
            match there {
                Some(there) if there != ours => bail!(would_overwrite(&self.name(index))),
                _ => Ok(ours),
            }
        })?;
        let sums = self.sums(&digests);
        match digest_of_file(&dir.join(SUMS))? {
            Some(there) if there != hex(&Sha256::digest(sums)) => bail!(would_overwrite(SUMS)),
            _ => Ok(()),
        }
    }

    fn sums(&self, digests: &[String]) -> String {
        let lines = digests.iter().enumerate();
        lines.map(|(index, digest)| format!("{digest}  {}\n", self.name(index))).collect()
    }

    /// Makes one segment, a piece at a time, and returns its digest in hex.
    fn generate(&self, index: usize, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<String> {
        let size = self.sizes[index];
        let head = boxes(size);
        let mut digest = Sha256::new();
        digest.update(head);
        sink(&head)?;
        let mut noise = generator(self.seed, index as u64);
        let mut left = size - BOXES as u64;
        let mut piece = vec![0; 64 * 1024];
        while left > 0 {
            let n = left.min(piece.len() as u64) as usize;
            noise.fill_bytes(&mut piece[..n]);
            digest.update(&piece[..n]);
            sink(&piece[..n])?;
            left -= n as u64;
        }
        Ok(hex(&digest.finalize()))
    }

    /// Runs `work` for each index on all cores that the system grants and returns the results in order, or the error of the
    /// lowest index that failed.
    fn for_each(&self, work: impl Fn(usize) -> Result<String> + Sync) -> Result<Vec<String>> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(self.sizes.len()));
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.sizes.len() {
                    return;
                }
                let result = work(index);
                if result.is_err() {
                    // The others stop at their next look.
                    next.store(self.sizes.len(), Ordering::Relaxed);
                }
                done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
            }
        };
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(self.sizes.len());
        thread::scope(|scope| {
            // Where the system refuses a thread, those there are do the work.
            for _ in 1..threads {
                if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }
}

/// A generator whose seed names this use of it, so that no other use of the same number gives the
/// same bytes. `seed_from_u64` is avoided: its expansion of the number is not promised to stay.
fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = *b"twinlink segments, v1.  ........";
    key[24..].copy_from_slice(&seed.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(stream);
    generator
}

/// One weight a segment, in millionths of the mean before it is made exact.
///
/// Video comes in scenes: within one, sizes wander a little; at a cut, they jump. A walk says how the
/// segments rank, and the weight follows from the rank, which makes any set, however small or unlucky its
/// seed, spread as it should. Large segments are more common than small ones, as in the course's set, where
/// the mean lies nearer the maximum: with m from 0 for the largest to 1 for the smallest, the weight is
/// largest − (largest − smallest)·(6m² + m)/7, of mean largest − (largest − smallest)·5/14 = 1.
fn weights(count: u32, seed: u64) -> Vec<u64> {
    const ONE: u64 = 65_535;
    let walk = walk(count, seed);
    let mut order: Vec<usize> = (0..walk.len()).collect();
    order.sort_by_key(|index| (walk[*index], *index));
    let mut weights = vec![0; walk.len()];
    for (rank, index) in order.into_iter().enumerate() {
        let m = ONE * (2 * rank as u64 + 1) / (2 * u64::from(count));
        weights[index] = LARGEST_PPM - (LARGEST_PPM - SMALLEST_PPM) * (6 * m * m + m * ONE) / (7 * ONE * ONE);
    }
    weights
}

/// A walk between 0 and 65 535 that jumps at every fifth step on average.
fn walk(count: u32, seed: u64) -> Vec<i64> {
    const TOP: i64 = 65_535;
    const STEP: i64 = 4_000;
    let mut draws = generator(seed, SIZES_STREAM);
    let mut at = 0;
    let one_step = |index| {
        let cut = index == 0 || draws.next_u64().is_multiple_of(5);
        if cut {
            at = (draws.next_u64() & 0xffff) as i64;
        } else {
            at += (draws.next_u64() % (2 * STEP as u64 + 1)) as i64 - STEP;
            // It bounces off both ends, so that neither is favoured.
            at = at.abs().min(2 * TOP - at);
        }
        at
    };
    (0..count).map(one_step).collect()
}

/// The boxes of a media segment (ISO/IEC 14496-12, 8.16.2): brand `msdh`, then the noise's `mdat`.
fn boxes(size: u64) -> [u8; BOXES] {
    let mut head = [0; BOXES];
    head[0..4].copy_from_slice(&24u32.to_be_bytes());
    head[4..16].copy_from_slice(b"stypmsdh\0\0\0\0");
    head[16..24].copy_from_slice(b"msdhmsix");
    // `Set::new` bounds the mean so that this fits.
    head[24..28].copy_from_slice(&((size - 24) as u32).to_be_bytes());
    head[28..32].copy_from_slice(b"mdat");
    head
}

fn would_overwrite(name: &str) -> String {
    format!(
        "{name} is there with other content, and no file is ever overwritten; \
         name an empty folder, or remove the old set first"
    )
}

/// The digest of a file in hex, or nothing where there is none.
fn digest_of_file(path: &Path) -> Result<Option<String>> {
    let attempt = || format!("cannot read {}, which is there already", path.display());
    // A pipe in the file's place must not make this wait for a writer.
    let mut file = match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(attempt),
    };
    if !file.metadata().with_context(attempt)?.is_file() {
        bail!("{} is there and is not a regular file; name an empty folder", path.display());
    }
    let mut digest = Sha256::new();
    let mut piece = vec![0; 256 * 1024];
    loop {
        match file.read(&mut piece).with_context(attempt)? {
            0 => return Ok(Some(hex(&digest.finalize()))),
            n => digest.update(&piece[..n]),
        }
    }
}

/// Lower-case hexadecimal, as `sha256sum` prints it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file that appears under its name only when it is whole.
struct NewFile<'a> {
    file: File,
    folder: &'a Folder,
    hidden: String,
    name: &'a str,
}

impl<'a> NewFile<'a> {
    fn create(folder: &'a Folder, name: &'a str) -> Result<NewFile<'a>> {
        let hidden = format!(".{name}.part");
        // An earlier call that was killed has left it.
        folder.remove(&hidden)?;
        Ok(NewFile { file: folder.create_new(&hidden)?, folder, hidden, name })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("cannot write {}", self.folder.join(&self.hidden).display()))
    }

    fn finish(mut self) -> Result<()> {
        let result =
            self.file.set_permissions(Permissions::from_mode(0o644)).and_then(|()| self.file.flush());
        result.with_context(|| format!("cannot finish {}", self.folder.join(self.name).display()))?;
        self.folder.rename(&self.hidden, self.name)
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        // After `finish` the hidden name is gone and this finds nothing; after an error it must not
        // leave half a file behind.
        let _ = self.folder.remove(&self.hidden);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_spread_as_the_course_set_does() {
        let set = Set::new(160, ByteCount(3_200_000), 1).unwrap();
        let (least, greatest) = (set.sizes.iter().min().unwrap(), set.sizes.iter().max().unwrap());
        assert!(least.abs_diff(2_068_304) < 2_068_304 / 100, "smallest {least}");
        assert!(greatest.abs_diff(3_830_861) < 3_830_861 / 100, "largest {greatest}");
    }

    #[test]
    fn names_sort_whatever_the_count() {
        let name = |count, index| Set::new(count, ByteCount(100), 1).unwrap().name(index);
        assert_eq!(name(160, 0), "s001.m4s");
        assert_eq!(name(160, 159), "s160.m4s");
        assert_eq!(name(7, 6), "s007.m4s");
        assert_eq!(name(16_000, 0), "s00001.m4s");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_sum_is_exact_and_each_size_plausible(count in 1u32..400, mean in 100u64..5_000_000, seed: u64) {
            let set = Set::new(count, ByteCount(mean), seed).unwrap();
            prop_assert_eq!(set.bytes(), u64::from(count) * mean);
            for size in set.sizes() {
                prop_assert!(*size >= mean * 63 / 100 && *size <= mean * 122 / 100, "{} of {}", size, mean);
            }
        }
    }
}
