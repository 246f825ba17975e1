//! Generated code as text, for people and snapshots: Cranelift IR and disassembly. Both are stable: no addresses.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind, Register};
use lathe_artifact::code::{Arch, Code, CodeFunction};
use lathe_artifact::plan::Plan;

use crate::{CodegenError, Target, generate, write};

/// The Cranelift IR of every function of `plan`.
///
/// # Errors
/// As [`generate`].
pub fn emit_clif(plan: &Plan, target: &Target) -> Result<String, CodegenError> {
    let written = write(plan, target)?;
    let mut text = String::new();
    for (index, draft) in written.drafts.list().iter().enumerate() {
        let _ = writeln!(text, "; u0:{index} is {}\n{}", draft.name, draft.function.display());
    }
    Ok(text)
}

/// The disassembly of every function of `plan`: offset in the function, instruction. Only x86-64 has a disassembler; for other
/// architectures the bytes are printed.
///
/// # Errors
/// As [`generate`].
pub fn emit_asm(plan: &Plan, target: &Target) -> Result<String, CodegenError> {
    let code = generate(plan, target)?;
    let mut text = String::new();
    for function in &code.functions {
        let _ = writeln!(text, "{}: # at {:#x}, {} bytes", function.name, function.offset, function.len);
        let start = function.offset as usize;
        let bytes = code.bytes.get(start..start + function.len as usize).unwrap_or_default();
        match code.target.arch {
            Arch::X86_64 => disassemble(&mut text, &code, function, bytes),
            Arch::Aarch64 => words(&mut text, bytes),
        }
        text.push('\n');
    }
    Ok(text)
}

fn words(text: &mut String, bytes: &[u8]) {
    for (index, word) in bytes.chunks(4).enumerate() {
        let digits: String = word.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{:6x}  .word 0x{digits}", index * 4);
    }
}

/// Addresses are offsets from the start of the function.
fn disassemble(text: &mut String, code: &Code, function: &CodeFunction, bytes: &[u8]) {
    let mut decoder = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    formatter.options_mut().set_branch_leading_zeros(false);
    let mut instruction = Instruction::default();
    // Constants follow the code; the first address that an instruction reads relative to itself is where they begin.
    let mut constants = bytes.len() as u64;
    while decoder.can_decode() && decoder.ip() < constants {
        decoder.decode_out(&mut instruction);
        if instruction.is_ip_rel_memory_operand() && instruction.memory_base() == Register::RIP {
            constants = constants.min(instruction.ip_rel_memory_address());
        }
        let mut line = String::new();
        match callee(code, function, &instruction) {
            Some(name) => line = format!("call {name}"),
            None => formatter.format(&instruction, &mut line),
        }
        let _ = writeln!(text, "{:6x}  {line}", instruction.ip());
    }
    let start = usize::try_from(constants).unwrap_or(bytes.len());
    for (index, chunk) in bytes.get(start..).unwrap_or_default().chunks(16).enumerate() {
        let digits: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{:6x}  .byte {}", start + index * 16, digits.join(" "));
    }
}

/// The function that an instruction of `caller` calls.
fn callee<'a>(code: &'a Code, caller: &CodeFunction, instruction: &Instruction) -> Option<&'a str> {
    if instruction.mnemonic() != Mnemonic::Call || instruction.op0_kind() != OpKind::NearBranch64 {
        return None;
    }
    let target = instruction.near_branch_target().wrapping_add(u64::from(caller.offset));
    let found = code.functions.binary_search_by_key(&target, |function| u64::from(function.offset)).ok()?;
    code.functions.get(found).map(|function| function.name.as_str())
}
