//! Compiles functions and joins them into one blob.
//!
//! Functions start at multiples of 64 bytes in the order of their numbers. The only relocations that a blob may have are
//! calls between its own functions, which are patched here; a library call or anything else is refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use cranelift_codegen::Context;
use cranelift_codegen::FinalizedRelocTarget;
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{ExternalName, Function};
use cranelift_codegen::isa::TargetIsa;
use lathe_artifact::code::{ALIGNMENT, CodeFunction};

use crate::CodegenError;
use crate::target::{Effort, Target};

/// A function before it is compiled.
pub(crate) struct Draft {
    /// Its name.
    pub name: String,
    /// Cranelift IR.
    pub function: Function,
    /// How much to optimise.
    pub effort: Effort,
}

/// A compiled function before it has an address.
struct Compiled {
    bytes: Vec<u8>,
    calls: Vec<Call>,
}

/// A call to patch.
struct Call {
    at: u32,
    callee: u32,
    addend: i64,
    kind: Reloc,
}

/// The joined functions.
pub(crate) struct Linked {
    /// The blob.
    pub bytes: Vec<u8>,
    /// One a draft, in the same order.
    pub functions: Vec<CodeFunction>,
}

/// Compiles `drafts` on the available cores and links them. The result does not depend on the number of cores.
pub(crate) fn link(drafts: &[Draft], target: &Target) -> Result<Linked, CodegenError> {
    let compiled = compile_all(drafts, target)?;
    let mut bytes = Vec::new();
    let mut functions = Vec::with_capacity(drafts.len());
    for (draft, compiled) in drafts.iter().zip(&compiled) {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        let start = bytes.len();
        bytes.extend_from_slice(&compiled.bytes);
        // Half of the offset range keeps every distance within a signed 32-bit displacement.
        let limit = (i32::MAX / 2) as usize;
        match (u32::try_from(start), u32::try_from(compiled.bytes.len())) {
            (Ok(offset), Ok(len)) if bytes.len() <= limit => {
                functions.push(CodeFunction { name: draft.name.clone(), offset, len });
            }
            _ => return Err(CodegenError::TooLarge { bytes: bytes.len(), limit }),
        }
    }
    for (function, compiled) in functions.iter().zip(&compiled) {
        for call in &compiled.calls {
            patch(&mut bytes, function, call, &functions)?;
        }
    }
    Ok(Linked { bytes, functions })
}

fn compile_all(drafts: &[Draft], target: &Target) -> Result<Vec<Compiled>, CodegenError> {
    let (glue, loops) = (target.isa(Effort::Glue)?, target.isa(Effort::Loop)?);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut context = Context::new();
        let mut results = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(draft) = drafts.get(index) else { return results };
            let isa = match draft.effort {
                Effort::Glue => &glue,
                Effort::Loop => &loops,
            };
            results.push((index, compile(&mut context, draft, &**isa)));
        }
    };
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(drafts.len() / 8 + 1).min(16);
    let mut results = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut results = work();
        for helper in helpers {
            match helper.join() {
                Ok(more) => results.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, compiled)| compiled).collect()
}

fn compile(context: &mut Context, draft: &Draft, isa: &dyn TargetIsa) -> Result<Compiled, CodegenError> {
    context.clear();
    context.func = draft.function.clone();
    let code = context
        .compile(isa, &mut ControlPlane::default())
        .map_err(|error| CodegenError::internal(&draft.name, format!("{:?}", error.inner)))?;
    if code.buffer.alignment as usize > ALIGNMENT {
        return Err(CodegenError::internal(&draft.name, "constants need a larger alignment"));
    }
    let mut calls = Vec::new();
    for reloc in code.buffer.relocs() {
        let callee = match &reloc.target {
            FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => {
                draft.function.params.user_named_funcs()[*name].index
            }
            other => {
                let reason = format!("a relocation to {other:?}, which is not an own function");
                return Err(CodegenError::internal(&draft.name, reason));
            }
        };
        calls.push(Call { at: reloc.offset, callee, addend: reloc.addend, kind: reloc.kind });
    }
    Ok(Compiled { bytes: code.code_buffer().to_vec(), calls })
}

fn patch(
    bytes: &mut [u8],
    caller: &CodeFunction,
    call: &Call,
    functions: &[CodeFunction],
) -> Result<(), CodegenError> {
    let failed = |reason: &str| CodegenError::internal(&caller.name, reason);
    let callee =
        functions.get(call.callee as usize).ok_or_else(|| failed("a call of an unknown function"))?;
    let at = caller.offset as usize + call.at as usize;
    let distance = i64::from(callee.offset) + call.addend - at as i64;
    let place = bytes.get_mut(at..at + 4).and_then(|place| <&mut [u8; 4]>::try_from(place).ok());
    let place = place.ok_or_else(|| failed("a relocation outside the function"))?;
    match call.kind {
        Reloc::X86CallPCRel4 => {
            let distance = i32::try_from(distance).map_err(|_| failed("a call that is too far"))?;
            *place = distance.to_le_bytes();
        }
        Reloc::Arm64Call => {
            if distance % 4 != 0 || !(-(1 << 27)..1 << 27).contains(&distance) {
                return Err(failed("a call that is too far"));
            }
            let instruction = u32::from_le_bytes(*place) & !0x03ff_ffff;
            *place = (instruction | ((distance >> 2) as u32 & 0x03ff_ffff)).to_le_bytes();
        }
        other => return Err(failed(&format!("a relocation of kind {other:?}"))),
    }
    Ok(())
}
