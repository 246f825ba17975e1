//! A mapped file that shrinks under a program with the handler: one clear error, exit code 1.
#![cfg(target_os = "linux")]

use std::process::Command;

use lathe_tensor::MappedFile;

const VARIABLE: &str = "LATHE_TEST_SHRINKING_FILE";

#[test]
fn a_file_that_shrinks_while_mapped_is_an_error_with_its_name() {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return read_while_shrinking(path.as_ref());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(MappedFile::COPY_LIMIT + 4096).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--nocapture", "--exact", "a_file_that_shrinks_while_mapped_is_an_error_with_its_name"])
        .env(VARIABLE, &path)
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(path.to_str().unwrap()) && message.contains("cut short"), "{message}");
}

fn read_while_shrinking(path: &std::path::Path) {
    lathe_runtime::install_sigbus_handler();
    let mapped = MappedFile::open(path).unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10).unwrap();
    let sum: u64 = mapped.iter().map(|&byte| u64::from(byte)).sum();
    panic!("read {sum} from a file that is gone");
}
