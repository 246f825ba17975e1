//! Snapshot tests: IR text in, refusals and whole IR text out.

mod attention;
mod blocks;
mod buffers;
mod cache;
mod canonical;
mod driver;
mod exact;
mod fuse;
mod gqa;
mod masks;
mod moe;
mod moe_forms;
mod pictures;
mod quantize;
mod quantize_weights;
mod regions;
mod rms_norm;
mod rotary;
mod tables;

use crate::driver::{Options, optimise};
use crate::{Pass, standard};

/// Runs one pass of the standard pipeline over a module in text form; verifies and prints it, refusals first. The answer may not
/// change on small inputs, which `lathe-tests` checks for whole pipelines; here it is the text that is read.
pub(crate) fn check(pass: &str, text: &str) -> String {
    let passes = standard();
    let pass = passes.iter().find(|candidate| candidate.name() == pass).expect("a pass of the pipeline");
    run(&[*pass], text)
}

pub(crate) fn run(passes: &[Pass<'_>], text: &str) -> String {
    let mut module = lathe_ir::parse(text).unwrap_or_else(|error| panic!("{error} in {text}"));
    let options = Options { verify: true, ..Options::default() };
    let report =
        optimise(&mut module, passes, &options, &mut |_, _| {}).unwrap_or_else(|error| panic!("{error}"));
    let mut out = String::new();
    for pass in &report.passes {
        for (node, reason) in &pass.refused {
            out.push_str(&format!("{} refused at {node}: {reason}\n", pass.name));
        }
    }
    out + &module.to_string()
}
