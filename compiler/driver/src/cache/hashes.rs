//! Hashes of large files, kept from one process to the next.
//!
//! A file of the cache's folder lists them with what tells that a file is the same: where it lies, its size, and when its bytes and its
//! description were changed last, in nanoseconds. The second time is the system's own, which programs cannot set. A hash is kept only
//! where both lie well before the file was read: a file that is being written has no times to trust.

use std::fs::{self, File, Metadata};
use std::io::{Error, Read};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lathe_artifact::write_atomically;
use serde::{Deserialize, Serialize};

/// The list, in the cache's folder.
const LIST: &str = "hashes.json";
/// Bytes from which on a file's hash is kept.
const LARGE: u64 = 16 << 20;
/// Files whose hashes are kept.
const MOST: usize = 256;
/// Largest list that is read.
const MAX_LIST_BYTES: u64 = 1 << 20;
/// How long a file must have been left alone.
const SETTLED: Duration = Duration::from_secs(2);

/// A file's hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    stamp: Stamp,
    hash: String,
}

/// What tells that a file is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: String,
    /// Device and number of the file.
    place: [u64; 2],
    bytes: u64,
    /// Seconds and nanoseconds of the last change of its bytes, then of its description.
    changed: [[i64; 2]; 2],
}

impl Stamp {
    /// `None` where the system does not say enough.
    #[cfg(unix)]
    fn of(path: &Path, metadata: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        Some(Self {
            path: fs::canonicalize(path).ok()?.to_str()?.to_string(),
            place: [metadata.dev(), metadata.ino()],
            bytes: metadata.len(),
            changed: [[metadata.mtime(), metadata.mtime_nsec()], [metadata.ctime(), metadata.ctime_nsec()]],
        })
    }

    #[cfg(not(unix))]
    fn of(_path: &Path, _metadata: &Metadata) -> Option<Self> {
        None
    }

    /// Whether the file was left alone for long enough at `now`.
    fn is_settled(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(UNIX_EPOCH) else { return false };
        let latest = now.saturating_sub(SETTLED).as_secs() as i64;
        self.changed.iter().all(|[seconds, _]| *seconds < latest)
    }
}

/// The BLAKE3 of a file, which is read where its hash is not kept in `folder`.
///
/// # Errors
/// Where the file cannot be read. A list that cannot be read or written is made again later.
pub(super) fn of(folder: &Path, path: &Path) -> std::io::Result<[u8; 32]> {
    let now = SystemTime::now();
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let stamp = match metadata.is_file() && metadata.len() >= LARGE {
        true => Stamp::of(path, &metadata).filter(|stamp| stamp.is_settled(now)),
        false => None,
    };
    let Some(stamp) = stamp else { return hash(file) };
    let mut rows = read(&folder.join(LIST));
    if let Some(row) = rows.iter().find(|row| row.stamp == stamp)
        && let Ok(hash) = blake3::Hash::from_hex(&row.hash)
    {
        return Ok(*hash.as_bytes());
    }
    let hash = hash(file)?;
    rows.retain(|row| row.stamp.path != stamp.path);
    rows.truncate(MOST - 1);
    rows.insert(0, Row { stamp, hash: blake3::Hash::from_bytes(hash).to_hex().to_string() });
    let written = serde_json::to_vec(&rows)
        .map_err(Error::other)
        .and_then(|text| write_atomically(&folder.join(LIST), |to| std::io::Write::write_all(to, &text)));
    if let Err(error) = written {
        tracing::debug!("the hash of {} is not kept: {error}", path.display());
    }
    Ok(hash)
}

fn hash(file: File) -> std::io::Result<[u8; 32]> {
    Ok(*blake3::Hasher::new().update_reader(file)?.finalize().as_bytes())
}

fn read(list: &Path) -> Vec<Row> {
    let text = File::open(list).and_then(|file| {
        let mut text = Vec::new();
        file.take(MAX_LIST_BYTES).read_to_end(&mut text).map(|_| text)
    });
    text.ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_hashed_again_and_what_is_new_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, vec![1; LARGE as usize]).unwrap();
        let first = of(folder.path(), &path).unwrap();
        assert!(!folder.path().join(LIST).exists(), "a file that was just written");
        let metadata = fs::metadata(&path).unwrap();
        let stamp = Stamp::of(&path, &metadata).unwrap();
        assert!(!stamp.is_settled(SystemTime::now()));
        assert!(stamp.is_settled(SystemTime::now() + Duration::from_secs(4)));
        // What is listed counts, so that the file is not read.
        std::thread::sleep(SETTLED + Duration::from_millis(1100));
        assert_eq!(of(folder.path(), &path).unwrap(), first);
        let list = fs::read_to_string(folder.path().join(LIST)).unwrap();
        let other = list.replace(&blake3::Hash::from_bytes(first).to_hex()[..8], "00000000");
        fs::write(folder.path().join(LIST), other).unwrap();
        let listed = of(folder.path(), &path).unwrap();
        assert!(listed != first && listed[4..] == first[4..]);
        // Another size or time is another file, and so is a broken list none.
        fs::write(&path, vec![1; LARGE as usize]).unwrap();
        assert_eq!(of(folder.path(), &path).unwrap(), first);
        fs::write(folder.path().join(LIST), "{").unwrap();
        assert_eq!(of(folder.path(), &path).unwrap(), first);
    }
}
