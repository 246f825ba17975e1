//! Which builds of compiler and runtime fit each other.

use std::sync::LazyLock;

use crate::FORMAT_VERSION;
use crate::abi::{SCRATCH_BYTES, Service};
use crate::builtin::Builtin;
use crate::layout::{PackedBlocks, PackedConv, PackedIntegerConv, PackedIntegers, PackedMatrix};

/// The identity of this build, stored in every artifact: the version and a hash of what generated code relies on (builtins
/// with their arguments, services, the layouts of packed weights). The runtime runs only code of its own build id.
pub fn build_id() -> &'static str {
    static ID: LazyLock<String> = LazyLock::new(|| {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        add(&format!("format {FORMAT_VERSION} services {} scratch {SCRATCH_BYTES}", Service::COUNT));
        for (name, version) in [
            ("matrix", PackedMatrix::VERSION),
            ("blocks", PackedBlocks::VERSION),
            ("integers", PackedIntegers::VERSION),
            ("conv", PackedConv::VERSION),
            ("integer conv", PackedIntegerConv::VERSION),
        ] {
            add(&format!("layout {name} {version}"));
        }
        for builtin in Builtin::ALL {
            add(builtin.name());
            builtin.fields().iter().for_each(|(name, kind)| add(&format!("{name}: {kind:?}")));
        }
        let hash = hasher.finalize().to_hex();
        format!("{}-{}", env!("CARGO_PKG_VERSION"), &hash[..12])
    });
    &ID
}
