//! Writing an artifact: header, padding, seal, and a file that is whole or not there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use lathe_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::code::Code;
use crate::header::{self, Entry};
use crate::key::{KEY_BYTES, UserKey};
use crate::plan::{Plan, Port};
use crate::seal::{self, Digest, SEAL_BYTES};
use crate::{Artifact, ArtifactError};

/// Version of the file's format.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const FORMAT: &str = "lathe";
pub(crate) const IR: &str = "__ir";
pub(crate) const PROGRAM: &str = "__program";
pub(crate) const SEAL: &str = "__seal";

/// Keys of `__metadata__`.
pub(crate) mod metadata {
    pub(crate) const FORMAT: &str = "format";
    pub(crate) const VERSION: &str = "version";
    pub(crate) const BUILD: &str = "build_id";
    pub(crate) const SIGNATURES: &str = "signatures";
    pub(crate) const HASHES: &str = "weight_blake3";
}

/// The payload of `__program`, as JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct Program<'a> {
    pub(crate) functions: Vec<FunctionRecord<'a>>,
    /// Dtype and shape of weights that the file stores as plain bytes.
    pub(crate) encoded: BTreeMap<String, (DType, Vec<usize>)>,
    pub(crate) report: Cow<'a, Value>,
}

/// A function in [`Program`].
#[derive(Serialize, Deserialize)]
pub(crate) struct FunctionRecord<'a> {
    pub(crate) plan: Cow<'a, Plan>,
    pub(crate) code: Vec<CodeRecord<'a>>,
}

/// A piece of code in [`Program`]; its bytes are a tensor of their own.
#[derive(Serialize, Deserialize)]
pub(crate) struct CodeRecord<'a> {
    pub(crate) tensor: String,
    pub(crate) description: Cow<'a, Code>,
}

/// Keys that seal an artifact.
#[derive(Clone, Debug)]
pub struct SealKeys {
    /// The user's own key.
    pub user: UserKey,
    /// An ed25519 seed that signs it too.
    pub sign: Option<[u8; KEY_BYTES]>,
}

impl SealKeys {
    /// This user's key, made on first use; no signature.
    pub fn of_user() -> Result<Self, ArtifactError> {
        Ok(Self { user: UserKey::load_or_create()?, sign: None })
    }
}

impl Artifact {
    /// Writes the artifact to `path`, sealed. The file appears whole or not at all; an old one is replaced.
    pub fn write(&self, path: &Path, keys: &SealKeys) -> Result<(), ArtifactError> {
        let (mut entries, hashes) = self.entries()?;
        entries.push(Entry::bytes(SEAL, vec![0; SEAL_BYTES]));
        let mut entries = header::pad(entries);
        let header = header::encode(self.metadata(&hashes)?, &entries)?;
        let mut digest = Digest::new();
        digest.add(&header);
        let sealed = entries.iter().filter(|entry| entry.is_sealed() && entry.name != SEAL);
        sealed.for_each(|entry| digest.add(&entry.payload));
        let seal = seal::seal(&digest.finish(), &keys.user, keys.sign.as_ref());
        if let Some(last) = entries.last_mut() {
            last.payload = Cow::Owned(seal.to_vec());
        }
        let io = |source| ArtifactError::Io { action: "write", path: path.to_path_buf(), source };
        write_atomically(path, |file| {
            file.write_all(&header)?;
            entries.iter().try_for_each(|entry| file.write_all(&entry.payload))
        })
        .map_err(io)
    }

    fn entries(&self) -> Result<(Vec<Entry<'_>>, BTreeMap<String, String>), ArtifactError> {
        let mut entries = Vec::new();
        let mut hashes = BTreeMap::new();
        let mut encoded = BTreeMap::new();
        for (name, tensor) in &self.weights {
            let (entry, is_encoded) = weight_entry(name, tensor)?;
            if is_encoded {
                encoded.insert(name.clone(), (tensor.dtype(), tensor.shape().to_vec()));
            }
            hashes.insert(name.clone(), blake3::hash(&entry.payload).to_hex().to_string());
            entries.push(entry);
        }
        entries.push(Entry::bytes(IR, self.ir_text.as_bytes()));
        let mut functions = Vec::new();
        for function in &self.functions {
            let mut records = Vec::new();
            for (index, code) in function.code.iter().enumerate() {
                code.check().map_err(|error| ArtifactError::Encode(error.to_string()))?;
                let tensor = format!("__code.{}.{}.{index}", function.plan.name, code.target.arch.name());
                entries.push(Entry::bytes(tensor.clone(), code.bytes.as_slice()));
                records.push(CodeRecord { tensor, description: Cow::Borrowed(code) });
            }
            functions.push(FunctionRecord { plan: Cow::Borrowed(&function.plan), code: records });
        }
        let program = Program { functions, encoded, report: Cow::Borrowed(&self.report) };
        let text = serde_json::to_vec(&program).map_err(|error| ArtifactError::Encode(error.to_string()))?;
        entries.push(Entry::bytes(PROGRAM, text));
        Ok((entries, hashes))
    }

    fn metadata(&self, hashes: &BTreeMap<String, String>) -> Result<Map<String, Value>, ArtifactError> {
        let text = |value: Value| Value::String(value.to_string());
        let signatures: Vec<Value> =
            self.functions.iter().map(|function| signature(&function.plan)).collect();
        let hashes =
            serde_json::to_string(hashes).map_err(|error| ArtifactError::Encode(error.to_string()))?;
        let rows = [
            (metadata::FORMAT, Value::String(FORMAT.into())),
            (metadata::VERSION, text(json!(FORMAT_VERSION))),
            (metadata::BUILD, Value::String(self.build_id.clone())),
            (metadata::SIGNATURES, text(Value::Array(signatures))),
            (metadata::HASHES, Value::String(hashes)),
        ];
        Ok(rows.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
    }
}

fn weight_entry<'a>(name: &str, tensor: &'a Tensor) -> Result<(Entry<'a>, bool), ArtifactError> {
    let file_name = header::escape(name);
    if let Some(dtype) = header::file_dtype(tensor.dtype()) {
        let shape = tensor.shape().to_vec();
        return Ok((Entry { name: file_name, dtype, shape, payload: Cow::Borrowed(tensor.bytes()) }, false));
    }
    if tensor.dtype() != DType::String {
        return Ok((Entry::bytes(file_name, tensor.bytes()), true));
    }
    let strings = tensor.strings().map_err(|error| ArtifactError::Encode(error.to_string()))?;
    let mut bytes = Vec::new();
    for string in strings {
        bytes.extend_from_slice(&(string.len() as u64).to_le_bytes());
        bytes.extend_from_slice(string);
    }
    Ok((Entry::bytes(file_name, bytes), true))
}

/// What a function takes and gives, for people and tools that list the file.
fn signature(plan: &Plan) -> Value {
    let port =
        |port: &Port| json!({ "name": port.name, "dtype": port.tensor.dtype.name(), "dims": port.dims_text });
    let ports = |ports: &[Port]| ports.iter().map(port).collect::<Vec<_>>();
    json!({ "function": plan.name, "inputs": ports(&plan.inputs), "outputs": ports(&plan.outputs) })
}

/// Removes a file that was not finished.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // The first error is the one worth reporting.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Writes a file under a temporary name in the same folder, syncs it and renames it to `path`.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| std::io::Error::other("not the name of a file"))?;
    let suffix = format!(".{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    let temporary = folder.join(hidden);
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let mut unfinished = Unfinished(Some(temporary.clone()));
    let mut writer = BufWriter::with_capacity(1 << 20, &file);
    write(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    unfinished.0 = None;
    // The name is durable once the folder is synced; a file system that cannot do that has done its best.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}
