//! Keys: the user's own, which seals artifacts made on this machine, and ed25519 keys in files.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use etcetera::{BaseStrategy, choose_base_strategy};

use crate::ArtifactError;

/// Bytes of every key.
pub const KEY_BYTES: usize = 32;
/// Largest key file that is read.
const MAX_FILE_BYTES: u64 = 4096;

/// The secret that seals this user's artifacts.
#[derive(Clone)]
pub struct UserKey(pub(crate) [u8; KEY_BYTES]);

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserKey(..)")
    }
}

impl UserKey {
    /// Where the key is kept: `LATHE_KEY_FILE`, else `LATHE_HOME/seal.key`, else `lathe/seal.key` in the user's data folder.
    pub fn path() -> Result<PathBuf, ArtifactError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = variable("LATHE_KEY_FILE") {
            return Ok(path);
        }
        if let Some(home) = variable("LATHE_HOME") {
            return Ok(home.join("seal.key"));
        }
        let strategy = choose_base_strategy().map_err(|error| ArtifactError::Key {
            path: PathBuf::from("seal.key"),
            reason: format!("no home folder ({error}); set LATHE_KEY_FILE"),
        })?;
        Ok(strategy.data_dir().join("lathe").join("seal.key"))
    }

    /// The key at [`Self::path`]; `None` where none was made yet.
    pub fn load() -> Result<Option<Self>, ArtifactError> {
        Self::load_from(&Self::path()?)
    }

    /// The key at [`Self::path`], made where there is none.
    pub fn load_or_create() -> Result<Self, ArtifactError> {
        Self::load_or_create_at(&Self::path()?)
    }

    /// The key in the file at `path`; `None` where there is no such file.
    pub fn load_from(path: &Path) -> Result<Option<Self>, ArtifactError> {
        let refused = |reason: String| ArtifactError::Key { path: path.to_path_buf(), reason };
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(error.to_string())),
        };
        if !metadata.is_file() || metadata.len() != KEY_BYTES as u64 {
            return Err(refused(format!("expected a file of {KEY_BYTES} bytes")));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(refused(format!(
                "others may use it (mode {:o}); make it private with `chmod 600`, or delete it for a new one",
                metadata.mode() & 0o777
            )));
        }
        let mut key = [0; KEY_BYTES];
        File::open(path)
            .and_then(|mut file| file.read_exact(&mut key))
            .map_err(|error| refused(error.to_string()))?;
        Ok(Some(Self(key)))
    }

    /// The key in the file at `path`, made (mode 0600) where there is none. Processes that race get the same key.
    pub fn load_or_create_at(path: &Path) -> Result<Self, ArtifactError> {
        if let Some(key) = Self::load_from(path)? {
            return Ok(key);
        }
        create(path)
            .map_err(|error| ArtifactError::Key { path: path.to_path_buf(), reason: error.to_string() })?;
        Self::load_from(path)?.ok_or_else(|| ArtifactError::Key {
            path: path.to_path_buf(),
            reason: "it vanished after it was made".into(),
        })
    }
}

/// Writes a random key under a temporary name and links it to `path`, unless someone was faster.
fn create(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut key = [0; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let temporary = folder.join(format!(".seal.key.{}.{:02x}{:02x}", std::process::id(), key[0], key[1]));
    // The mixed bytes only make the name unlike another thread's; the key must not be readable from it.
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(&key)?;
            file.sync_all()
        })
        .and_then(|()| match std::fs::hard_link(&temporary, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        });
    let removed = std::fs::remove_file(&temporary);
    written.and(removed)
}

/// `openssl genpkey -algorithm ed25519 -outform DER` puts this before the key.
const PRIVATE_DER: &[u8] = &[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// `openssl pkey -pubout -outform DER` puts this before the key.
const PUBLIC_DER: &[u8] = &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// An ed25519 key in a file: 32 bytes, 64 hexadecimal digits, or DER or PEM as OpenSSL writes it. The private form is the
/// seed; `--sign-key` reads a private key, `--trust-key` a public one.
pub fn read_ed25519(path: &Path) -> Result<[u8; KEY_BYTES], ArtifactError> {
    let refused = |reason: String| ArtifactError::Key { path: path.to_path_buf(), reason };
    let metadata = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(refused("not a key file".into()));
    }
    let bytes = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    decode(&bytes).ok_or_else(|| {
        refused("not an ed25519 key: expected 32 bytes, 64 hexadecimal digits, or DER or PEM".into())
    })
}

fn decode(bytes: &[u8]) -> Option<[u8; KEY_BYTES]> {
    let body =
        [PRIVATE_DER, PUBLIC_DER].iter().find_map(|prefix| bytes.strip_prefix(*prefix)).unwrap_or(bytes);
    if let Ok(key) = body.try_into() {
        return Some(key);
    }
    let text = std::str::from_utf8(bytes).ok()?.trim();
    if text.starts_with("-----BEGIN ") {
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64(body.as_bytes())?;
        return [PRIVATE_DER, PUBLIC_DER]
            .iter()
            .find_map(|prefix| der.strip_prefix(*prefix))?
            .try_into()
            .ok();
    }
    hexadecimal(text)
}

fn hexadecimal(text: &str) -> Option<[u8; KEY_BYTES]> {
    if text.len() != 2 * KEY_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for &digit in text.iter().filter(|digit| **digit != b'=' && !digit.is_ascii_whitespace()) {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_key_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/seal.key");
        assert!(UserKey::load_from(&path).unwrap().is_none());
        let made = UserKey::load_or_create_at(&path).unwrap();
        assert_eq!(UserKey::load_or_create_at(&path).unwrap().0, made.0);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "temporary files are removed"
        );
        let other = UserKey::load_or_create_at(&folder.path().join("other")).unwrap();
        assert_ne!(other.0, made.0);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        UserKey::load_or_create_at(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let message = UserKey::load_from(&path).unwrap_err().to_string();
        assert!(message.contains("mode 644"), "{message}");
        std::fs::write(folder.path().join("short"), [1; 5]).unwrap();
        assert!(UserKey::load_from(&folder.path().join("short")).is_err());
    }

    #[test]
    fn ed25519_keys_are_read_in_every_form() {
        let key: [u8; KEY_BYTES] = std::array::from_fn(|i| (i * 7 + 1) as u8);
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(decode(&key), Some(key));
        assert_eq!(decode(format!("{hex}\n").as_bytes()), Some(key));
        assert_eq!(decode(&[PRIVATE_DER, &key].concat()), Some(key));
        assert_eq!(decode(&[PUBLIC_DER, &key].concat()), Some(key));
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let first = decode(pem.as_bytes()).unwrap();
        assert_eq!(&first[..4], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(decode(b"nonsense"), None);
        assert_eq!(decode(&[0; 31]), None);
    }
}
