//! The seal: which bytes are as they were written, and by whom.
//!
//! The digest is a BLAKE3 hash of the header and of every payload that is not a weight; the header names sizes and places,
//! and it holds the hashes of the weights. The payload of `__seal` is
//! - a keyed BLAKE3 of the digest and the signature, with the user's key (32 bytes),
//! - an ed25519 public key (32) and its signature of the digest (64), zeros where the artifact is not signed,
//! - a plain BLAKE3 of the digest and the above (32), which tells damage from another user's seal.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::key::{KEY_BYTES, UserKey};

/// Bytes of the payload of `__seal`.
pub(crate) const SEAL_BYTES: usize = 160;

const MAC: std::ops::Range<usize> = 0..32;
const PUBLIC: std::ops::Range<usize> = 32..64;
const SIGNATURE: std::ops::Range<usize> = 64..128;
const SIGNED: std::ops::Range<usize> = 32..128;
const CHECKSUM: std::ops::Range<usize> = 128..160;

/// Whose seal makes code trusted.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// The key of the user who runs this process: artifacts made on this machine.
    #[default]
    UserKey,
    /// A given key of that kind.
    Key(UserKey),
    /// The owner of this ed25519 public key.
    PublicKey([u8; KEY_BYTES]),
    /// Nobody's: the artifact is read, its code is not.
    Nobody,
}

/// What the seal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealStatus {
    /// Sealed or signed by the key that [`Trust`] names.
    Trusted,
    /// Undamaged, but not by that key.
    Untrusted(String),
}

/// Hashes the sealed bytes, in file order.
pub(crate) struct Digest(blake3::Hasher);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(blake3::Hasher::new_derive_key("lathe artifact 1 sealed bytes"))
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

fn mac(key: &UserKey, digest: &[u8; 32], signed: &[u8]) -> blake3::Hash {
    blake3::Hasher::new_keyed(&key.0).update(digest).update(signed).finalize()
}

fn checksum(digest: &[u8; 32], seal: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(digest).update(&seal[..CHECKSUM.start]).finalize()
}

/// The payload of `__seal`.
pub(crate) fn seal(
    digest: &[u8; 32],
    user: &UserKey,
    sign_key: Option<&[u8; KEY_BYTES]>,
) -> [u8; SEAL_BYTES] {
    let mut seal = [0; SEAL_BYTES];
    if let Some(seed) = sign_key {
        let signer = SigningKey::from_bytes(seed);
        seal[PUBLIC].copy_from_slice(signer.verifying_key().as_bytes());
        seal[SIGNATURE].copy_from_slice(&signer.sign(digest).to_bytes());
    }
    let mac = mac(user, digest, &seal[SIGNED]);
    seal[MAC].copy_from_slice(mac.as_bytes());
    let checksum = checksum(digest, &seal);
    seal[CHECKSUM].copy_from_slice(checksum.as_bytes());
    seal
}

/// Whether the sealed bytes are those that were written.
pub(crate) fn is_intact(digest: &[u8; 32], seal: &[u8; SEAL_BYTES]) -> bool {
    // `blake3::Hash` compares in constant time.
    checksum(digest, seal)
        == blake3::Hash::from_slice(&seal[CHECKSUM]).unwrap_or(blake3::Hash::from_bytes([0; 32]))
}

/// Whether the seal is by whom `trust` names. An error where the user's key cannot be read.
pub(crate) fn verify(
    digest: &[u8; 32],
    seal: &[u8; SEAL_BYTES],
    trust: &Trust,
) -> Result<SealStatus, crate::ArtifactError> {
    let untrusted = |reason: &str| Ok(SealStatus::Untrusted(reason.to_string()));
    let key = match trust {
        Trust::Nobody => return untrusted("no key was given"),
        Trust::PublicKey(key) => return Ok(verify_signature(digest, seal, key)),
        Trust::Key(key) => key.clone(),
        Trust::UserKey => match UserKey::load()? {
            Some(key) => key,
            None => return untrusted("this user has not compiled a model yet, so it was made elsewhere"),
        },
    };
    let stored = blake3::Hash::from_slice(&seal[MAC]).unwrap_or(blake3::Hash::from_bytes([0; 32]));
    if mac(&key, digest, &seal[SIGNED]) == stored {
        Ok(SealStatus::Trusted)
    } else {
        untrusted("it was sealed by another user or on another machine")
    }
}

fn verify_signature(digest: &[u8; 32], seal: &[u8; SEAL_BYTES], key: &[u8; KEY_BYTES]) -> SealStatus {
    if seal[SIGNED].iter().all(|&byte| byte == 0) {
        return SealStatus::Untrusted("it is not signed".into());
    }
    let Ok(verifier) = VerifyingKey::from_bytes(key) else {
        return SealStatus::Untrusted("the given key is not an ed25519 public key".into());
    };
    match Signature::from_slice(&seal[SIGNATURE]) {
        Ok(signature) if verifier.verify_strict(digest, &signature).is_ok() => SealStatus::Trusted,
        _ => SealStatus::Untrusted("it is not signed by the given key".into()),
    }
}
