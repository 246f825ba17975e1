//! Reading an artifact. Nothing in the file is believed before it is checked.
//!
//! The file is in the safetensors format, so that any tool can list it: weights under their names, then `__ir` (text),
//! `__code.*` (machine code), `__program` (JSON: plans, descriptions of code, report), `__pad.*` (zeros), and last `__seal`
//! (see the `seal` module). Payloads start at multiples of 64 bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lathe_tensor::{Buffer, DType, MappedFile, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use crate::code::Code;
use crate::header::{self, MAX_HEADER_BYTES};
use crate::seal::{self, Digest, SEAL_BYTES, SealStatus, Trust};
use crate::write::{FORMAT, FORMAT_VERSION, IR, PROGRAM, Program, SEAL, metadata};
use crate::{Artifact, ArtifactError, PlannedFunction};

/// How the bytes of a file reach memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadMode {
    /// Files over 64 MiB are mapped and shared between processes; smaller ones are copied.
    #[default]
    Map,
    /// The file is copied: safe from changes of the file while the model is in use.
    Copy,
}

/// An artifact that was read.
#[derive(Debug)]
pub struct Opened {
    /// The artifact. Its functions have code only where the seal is trusted.
    pub artifact: Artifact,
    /// What the seal says.
    pub seal: SealStatus,
    path: PathBuf,
    hashes: BTreeMap<String, String>,
}

/// The bytes of a file.
enum Source {
    Memory(Buffer),
    Map(Arc<MappedFile>),
}

impl Source {
    fn open(path: &Path, mode: LoadMode) -> Result<Self, ArtifactError> {
        let io = |source| ArtifactError::Io { action: "read", path: path.to_path_buf(), source };
        // Asked before opening: opening a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(io(std::io::Error::other("not a regular file")));
        }
        let mut file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        if mode == LoadMode::Map && size > MappedFile::COPY_LIMIT {
            let mapped =
                MappedFile::from_file(file, path).map_err(|error| io(std::io::Error::other(error)))?;
            return Ok(Self::Map(Arc::new(mapped)));
        }
        let size = usize::try_from(size).map_err(|error| io(std::io::Error::other(error)))?;
        let mut buffer = Buffer::zeroed(size);
        file.read_exact(buffer.make_mut()).map_err(io)?;
        Ok(Self::Memory(buffer))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Memory(buffer) => buffer,
            Self::Map(file) => file,
        }
    }

    fn slice(&self, offset: usize, len: usize) -> Option<Buffer> {
        match self {
            Self::Memory(buffer) => buffer.slice(offset, len),
            Self::Map(file) => Buffer::mapped(file, offset, len).ok(),
        }
    }
}

/// A file whose header was read: where every tensor is.
struct Listing<'a> {
    path: &'a Path,
    source: &'a Source,
    metadata: Metadata,
    /// Where payloads start in the file.
    start: usize,
}

/// Reads the artifact at `path`.
///
/// # Errors
/// Where the file cannot be read, is no artifact, is of another version, or was damaged after it was sealed. A seal by
/// someone else is no error: see [`Opened::seal`].
pub fn open(path: &Path, trust: &Trust, mode: LoadMode) -> Result<Opened, ArtifactError> {
    let source = Source::open(path, mode)?;
    let listing = Listing::read(path, &source)?;
    let seal = listing.verify(trust)?;
    let text = listing.payload(PROGRAM)?;
    let program: Program<'_> =
        serde_json::from_slice(text).map_err(|error| listing.malformed(format!("its plan: {error}")))?;
    let mut functions = Vec::new();
    for function in program.functions {
        let mut codes = Vec::new();
        if seal == SealStatus::Trusted {
            for record in function.code {
                codes.push(listing.code(&record.tensor, record.description.into_owned())?);
            }
        }
        functions.push(PlannedFunction { plan: function.plan.into_owned(), code: codes });
    }
    let hashes = listing.hashes()?;
    let artifact = Artifact {
        functions,
        weights: listing.weights(&hashes, &program.encoded)?,
        ir_text: listing.text(IR)?,
        build_id: listing.entry(metadata::BUILD)?.to_string(),
        report: program.report.into_owned(),
    };
    Ok(Opened { artifact, seal, path: path.to_path_buf(), hashes })
}

impl Opened {
    /// Compares every weight with its hash.
    pub fn check(&self) -> Result<(), ArtifactError> {
        for (name, expected) in &self.hashes {
            let actual = self.artifact.weights.get(name).map(hash_of);
            if actual.as_deref() != Some(expected) {
                let reason = format!("the hash of weight `{name}` does not match");
                return Err(ArtifactError::Damaged { path: self.path.clone(), reason });
            }
        }
        Ok(())
    }
}

fn hash_of(tensor: &Tensor) -> String {
    let mut hasher = blake3::Hasher::new();
    match tensor.strings() {
        Ok(strings) => {
            for string in strings {
                hasher.update(&(string.len() as u64).to_le_bytes());
                hasher.update(string);
            }
        }
        Err(_) => {
            hasher.update(tensor.bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

impl<'a> Listing<'a> {
    fn read(path: &'a Path, source: &'a Source) -> Result<Self, ArtifactError> {
        let malformed = |reason: String| ArtifactError::Malformed { path: path.to_path_buf(), reason };
        let bytes = source.bytes();
        let length = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
        match length {
            None => return Err(malformed(format!("it has {} bytes", bytes.len()))),
            Some(length) if length > MAX_HEADER_BYTES as u64 => {
                return Err(malformed(format!("a header of {length} bytes")));
            }
            Some(_) => {}
        }
        let (header, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|error| malformed(format!("not a whole safetensors file: {error}")))?;
        let listing = Self { path, source, metadata, start: 8 + header };
        if listing.entry(metadata::FORMAT).ok() != Some(FORMAT) {
            return Err(malformed("a safetensors file that Lathe did not write".into()));
        }
        let version = listing.entry(metadata::VERSION)?;
        if version != FORMAT_VERSION.to_string() {
            return Err(ArtifactError::Version {
                path: path.to_path_buf(),
                found: version.to_string(),
                supported: FORMAT_VERSION,
            });
        }
        Ok(listing)
    }

    fn malformed(&self, reason: impl Into<String>) -> ArtifactError {
        ArtifactError::Malformed { path: self.path.to_path_buf(), reason: reason.into() }
    }

    fn entry(&self, key: &str) -> Result<&str, ArtifactError> {
        let metadata: Option<&HashMap<String, String>> = self.metadata.metadata().as_ref();
        metadata
            .and_then(|metadata| metadata.get(key))
            .map(String::as_str)
            .ok_or_else(|| self.malformed(format!("its metadata has no `{key}`")))
    }

    /// Offset in the file and length of a tensor's payload.
    fn range(&self, name: &str) -> Result<(usize, usize), ArtifactError> {
        let info =
            self.metadata.info(name).ok_or_else(|| self.malformed(format!("it has no tensor `{name}`")))?;
        let (start, end) = info.data_offsets;
        let length = end.checked_sub(start);
        match (self.start.checked_add(start), length) {
            (Some(offset), Some(length)) => Ok((offset, length)),
            _ => Err(self.malformed(format!("tensor `{name}` lies outside the file"))),
        }
    }

    fn payload(&self, name: &str) -> Result<&'a [u8], ArtifactError> {
        let (offset, length) = self.range(name)?;
        offset
            .checked_add(length)
            .and_then(|end| self.source.bytes().get(offset..end))
            .ok_or_else(|| self.malformed(format!("tensor `{name}` lies outside the file")))
    }

    fn text(&self, name: &str) -> Result<String, ArtifactError> {
        let text = std::str::from_utf8(self.payload(name)?);
        text.map(str::to_string).map_err(|error| self.malformed(format!("`{name}` is no text: {error}")))
    }

    fn verify(&self, trust: &Trust) -> Result<SealStatus, ArtifactError> {
        let names = self.metadata.offset_keys();
        if names.last().map(String::as_str) != Some(SEAL) {
            return Err(self.malformed("it does not end with a seal"));
        }
        let seal: &[u8; SEAL_BYTES] =
            self.payload(SEAL)?.try_into().map_err(|_| self.malformed("its seal has another size"))?;
        let header = self.source.bytes().get(..self.start).unwrap_or_default();
        let mut digest = Digest::new();
        digest.add(header);
        for name in names.iter().filter(|name| header::is_reserved(name) && *name != SEAL) {
            digest.add(self.payload(name)?);
        }
        let digest = digest.finish();
        if !seal::is_intact(&digest, seal) {
            let reason = "its sealed part does not match its seal".to_string();
            return Err(ArtifactError::Damaged { path: self.path.to_path_buf(), reason });
        }
        seal::verify(&digest, seal, trust)
    }

    fn code(&self, tensor: &str, mut code: Code) -> Result<Code, ArtifactError> {
        if !header::is_reserved(tensor) {
            return Err(self.malformed(format!("code in `{tensor}`, which is not sealed")));
        }
        code.bytes = self.payload(tensor)?.to_vec();
        code.check().map_err(|error| self.malformed(error.to_string()))?;
        Ok(code)
    }

    fn hashes(&self) -> Result<BTreeMap<String, String>, ArtifactError> {
        serde_json::from_str(self.entry(metadata::HASHES)?)
            .map_err(|error| self.malformed(format!("the hashes of its weights: {error}")))
    }

    fn weights(
        &self,
        hashes: &BTreeMap<String, String>,
        encoded: &BTreeMap<String, (DType, Vec<usize>)>,
    ) -> Result<BTreeMap<String, Tensor>, ArtifactError> {
        let mut weights = BTreeMap::new();
        for name in hashes.keys() {
            let tensor = self.weight(name, encoded.get(name));
            let bad = |error: String| self.malformed(format!("weight `{name}`: {error}"));
            weights.insert(name.clone(), tensor?.map_err(bad)?);
        }
        Ok(weights)
    }

    fn weight(
        &self,
        name: &str,
        encoded: Option<&(DType, Vec<usize>)>,
    ) -> Result<Result<Tensor, String>, ArtifactError> {
        let file_name = header::escape(name);
        let (offset, length) = self.range(&file_name)?;
        let Some(buffer) = self.source.slice(offset, length) else {
            return Ok(Err("it lies outside the file".into()));
        };
        let tensor = match encoded {
            Some((DType::String, shape)) => strings(&buffer)
                .and_then(|strings| Tensor::from_strings(strings, shape).map_err(|error| error.to_string())),
            Some((dtype, shape)) => {
                Tensor::new(*dtype, shape.clone(), buffer).map_err(|error| error.to_string())
            }
            None => self.dense(&file_name, buffer),
        };
        Ok(tensor)
    }

    fn dense(&self, file_name: &str, buffer: Buffer) -> Result<Tensor, String> {
        let info = self.metadata.info(file_name).ok_or("it is not there")?;
        let dtype = header::from_file_dtype(info.dtype).ok_or(format!("dtype {}", info.dtype))?;
        Tensor::new(dtype, info.shape.clone(), buffer).map_err(|error| error.to_string())
    }
}

/// Strings behind their lengths.
fn strings(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut strings = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or("a string without its length")?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|error| error.to_string())?;
        let (string, rest) = rest.split_at_checked(length).ok_or("a string that is cut off")?;
        strings.push(string.to_vec());
        bytes = rest;
    }
    Ok(strings)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
