//! Imports the model files named as arguments and prints a line for each: nodes and time, or the error.

use std::path::Path;
use std::time::Instant;

use lathe_import::{ImportOptions, import};

fn main() {
    for path in std::env::args().skip(1) {
        let start = Instant::now();
        match import(Path::new(&path), &ImportOptions::default()) {
            Ok(module) => {
                let nodes: usize = module.functions().map(|(_, function)| function.node_count()).sum();
                let guards: usize = module
                    .functions()
                    .flat_map(|(_, function)| function.node_ids().filter_map(|id| function.node(id)))
                    .map(|node| node.guards.len())
                    .sum();
                println!("ok {path}: {nodes} nodes, {guards} guards, {:?}", start.elapsed());
            }
            Err(error) => println!("ERR {path}: {error}"),
        }
    }
}
