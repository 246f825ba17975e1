//! The compile cache: `run model.onnx` compiles once.
//!
//! An entry is a sealed artifact in the cache folder, named by the hash of the model file (or `config.json`), the options, the build and the
//! targets. The hash of a large file is kept beside the entries with the file's stamp, so that a start need not read all of it. What else the model read (external data, weights) is listed in the entry with sizes and times, and compared before it is used. A cache that
//! fails is one warning, never an error.

mod hashes;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use etcetera::BaseStrategy;
use lathe_artifact::{Artifact, LoadMode, SealKeys, SealStatus, Trust};
use serde_json::{Value, json};

use crate::{BUILD_ID, CompileError, CompileOptions, compile};

/// The cache takes at most this many bytes; the entries that were not used for longest go first.
const MAX_BYTES: u64 = 8 << 30;

/// Entries on their way into a cache.
static UNFINISHED: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Waits for the entries that [deferred](Cache::deferred) caches write. A process that ends without it loses them.
pub fn finish() {
    let unfinished = UNFINISHED.lock().map(|mut writers| std::mem::take(&mut *writers));
    // A writer that panicked has left no entry, as one that failed.
    unfinished.unwrap_or_default().into_iter().for_each(|writer| drop(writer.join()));
}

/// A folder of compiled models.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    deferred: bool,
}

/// A compiled model and where it came from.
pub struct Compiled {
    /// The artifact.
    pub artifact: Artifact,
    /// The file in the cache that holds it, now or soon.
    pub file: Option<PathBuf>,
    /// Whether it was there already.
    pub hit: bool,
}

impl Cache {
    /// `LATHE_CACHE_DIR`, or the user's cache folder; `None` where there is no such folder.
    pub fn of_user() -> Option<Self> {
        let folder = match std::env::var_os("LATHE_CACHE_DIR") {
            Some(folder) if !folder.is_empty() => PathBuf::from(folder),
            _ => etcetera::choose_base_strategy().ok()?.cache_dir().join("lathe"),
        };
        Some(Self { folder, deferred: false })
    }

    /// A cache in this folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), deferred: false }
    }

    /// The same cache, whose entries are written while their models run: the answer need not wait for the disk. Who takes it calls [`finish`]
    /// before the process ends.
    pub fn deferred(self) -> Self {
        Self { deferred: true, ..self }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The compiled model: from the cache, or compiled and put there.
    ///
    /// # Errors
    /// Where the model does not compile. Trouble with the cache itself is logged.
    pub fn compile(&self, path: &Path, options: &CompileOptions) -> Result<Compiled, CompileError> {
        let entry = match self.entry(path, options) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::warn!("the compile cache in {} cannot be used: {error}", self.folder.display());
                return Ok(Compiled { artifact: compile(path, options)?, file: None, hit: false });
            }
        };
        if let Some(artifact) = load(&entry) {
            return Ok(Compiled { artifact, file: Some(entry), hit: true });
        }
        // One process compiles, the others wait for its entry.
        let lock = File::create(entry.with_extension("lock"));
        let locked = lock.as_ref().is_ok_and(|lock| lock.lock().is_ok());
        if locked && let Some(artifact) = load(&entry) {
            return Ok(Compiled { artifact, file: Some(entry), hit: true });
        }
        let mut artifact = compile(path, options)?;
        artifact.report["sources"] = sources(path);
        let whole = if self.deferred {
            let (cache, artifact, entry) = (self.clone(), artifact.clone(), entry.clone());
            let writer = thread::Builder::new().name("lathe-cache".to_string());
            let writer = writer.spawn(move || drop((cache.put(&artifact, &entry), lock)));
            writer.ok().zip(UNFINISHED.lock().ok()).map(|(writer, mut list)| list.push(writer)).is_some()
        } else {
            self.put(&artifact, &entry)
        };
        Ok(Compiled { artifact, file: whole.then_some(entry), hit: false })
    }

    /// Writes an entry, while its lock is held; whether it is there then.
    fn put(&self, artifact: &Artifact, entry: &Path) -> bool {
        let written = SealKeys::of_user().and_then(|keys| artifact.write(entry, &keys));
        if let Err(error) = &written {
            tracing::warn!("the compiled model is not cached: {error}");
        }
        // The lock file goes while the lock is held; a waiter then locks a file that no longer has a name, which is harmless.
        let _ = fs::remove_file(entry.with_extension("lock"));
        self.shrink(entry);
        written.is_ok()
    }

    fn entry(&self, path: &Path, options: &CompileOptions) -> std::io::Result<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let mut hasher = blake3::Hasher::new();
        self.hash_model(&mut hasher, path)?;
        hasher.update(fs::canonicalize(path)?.as_os_str().as_encoded_bytes());
        hasher.update(options.fingerprint().as_bytes());
        hasher.update(BUILD_ID.as_bytes());
        let native = lathe_codegen::Target::native().map(|target| format!("{target:?}")).unwrap_or_default();
        hasher.update(native.as_bytes());
        Ok(self.folder.join(format!("{}.lathe", hasher.finalize().to_hex())))
    }

    /// Hashes a model file. Of a folder it is the configuration and the names of the weight files, which are among the sources.
    fn hash_model(&self, hasher: &mut blake3::Hasher, path: &Path) -> std::io::Result<()> {
        if !path.is_dir() {
            hasher.update(&hashes::of(&self.folder, path)?);
            return Ok(());
        }
        hasher.update_reader(File::open(path.join("config.json"))?)?;
        for file in lathe_import::weight_files(path).map_err(std::io::Error::other)? {
            hasher.update(file.as_os_str().as_encoded_bytes());
            hasher.update(&[0]);
        }
        Ok(())
    }

    /// Removes the entries that were not used for longest until the rest fits.
    fn shrink(&self, keep: &Path) {
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "lathe"))
            .filter_map(|entry| {
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .collect();
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total <= MAX_BYTES {
                break;
            }
            if path != keep && fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
        }
    }
}

/// The artifact of an entry, if it is whole, of this user and still fits the files that it was made from.
fn load(entry: &Path) -> Option<Artifact> {
    if !entry.exists() {
        return None;
    }
    match lathe_artifact::open(entry, &Trust::UserKey, LoadMode::Map) {
        Ok(opened)
            if opened.seal == SealStatus::Trusted
                && opened.artifact.build_id == lathe_artifact::build_id() =>
        {
            if !sources_unchanged(&opened.artifact.report["sources"]) {
                return None;
            }
            if let Ok(file) = File::options().append(true).open(entry) {
                // Recently used: the time is what `shrink` sorts by.
                let _ = file.set_modified(SystemTime::now());
            }
            Some(opened.artifact)
        }
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("{}: the cache entry is made again: {error}", entry.display());
            None
        }
    }
}

/// External files and weight files of a model with what tells whether they changed.
fn sources(path: &Path) -> Value {
    let files = match path.extension() {
        _ if path.is_dir() => lathe_import::weight_files(path),
        Some(extension) if extension == "json" => {
            lathe_import::weight_files(path.parent().unwrap_or(Path::new(".")))
        }
        _ => lathe_import::external_files(path, u64::MAX),
    };
    let files = files.unwrap_or_default();
    files.iter().map(|file| json!({"path": file.to_string_lossy(), "stamp": stamp(file)})).collect()
}

fn sources_unchanged(sources: &Value) -> bool {
    sources.as_array().is_some_and(|sources| {
        sources.iter().all(|source| match (source["path"].as_str(), source["stamp"].as_str()) {
            (Some(path), Some(expected)) => stamp(Path::new(path)) == expected,
            _ => false,
        })
    })
}

/// Size and time of the last change.
fn stamp(path: &Path) -> String {
    let Ok(metadata) = fs::metadata(path) else { return "missing".to_string() };
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{} {}", metadata.len(), modified.map_or(0, |time| time.as_nanos()))
}
