//! Failures on demand, in a process of their own, for a failpoint is the process's.

use lathe_artifact::abi::{Status, Worker};
use lathe_artifact::builtin::{Builtin, TileFunction, args};
use lathe_kernels::failpoint;
use lathe_kernels::isa::{self, Isa};

#[test]
fn every_builtin_fails_on_demand_and_no_other() {
    let worker = Worker { run: std::ptr::null(), index: 0, count: 1, scratch: std::ptr::null_mut() };
    let tile = args::Tile {
        x: std::ptr::null(),
        y: std::ptr::null_mut(),
        count: 0,
        function: TileFunction::Exp as i64,
    };
    for isa in Isa::available() {
        for &builtin in Builtin::ALL {
            failpoint::set(Some(builtin));
            let address = isa::table(isa)[builtin as usize];
            // SAFETY: rows of the table are functions of two pointers that return a status.
            let function: unsafe extern "C" fn(*const Worker, *const u8) -> i32 =
                unsafe { std::mem::transmute(address) };
            // SAFETY: a builtin that fails on demand does not look at its arguments.
            let status = unsafe { function(&worker, std::ptr::null()) };
            assert_eq!(status, Status::Internal as i32, "{}", builtin.name());
            let other = if builtin == Builtin::Tile { Status::Internal } else { Status::Ok };
            // SAFETY: a tile of no elements touches no memory.
            assert_eq!(unsafe { isa::call(isa, &worker, &tile) }, other, "{}", builtin.name());
        }
        failpoint::set(None);
        // SAFETY: as above.
        assert_eq!(unsafe { isa::call(isa, &worker, &tile) }, Status::Ok);
    }
}
