//! A message where a mapped file shrinks while it is read.
//!
//! Reading behind the end of a mapped file raises SIGBUS, which kills the process without a word. The binaries install this
//! handler; libraries install none, since signal handlers belong to the program.

/// Turns SIGBUS in a mapped file into an error that names the file, and exit code 1. To be called once, by a binary.
#[cfg(target_os = "linux")]
pub fn install_sigbus_handler() {
    // SAFETY: all zeros is a valid `sigaction`; the handler has the signature that SA_SIGINFO asks for and calls only
    // functions that are safe in signal handlers.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = linux::handle;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigemptyset(&mut action.sa_mask);
        // A failure leaves the default action: the process ends without a message.
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

/// Elsewhere the default action stays.
#[cfg(not(target_os = "linux"))]
pub fn install_sigbus_handler() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::CStr;

    /// The longest line of `/proc/self/maps` that is understood: addresses, flags and a path.
    const LINE: usize = 4096 + 128;

    /// Names the mapped file around the address of the fault and ends the process.
    ///
    /// # Safety
    /// The kernel calls it with the signal's information.
    pub(super) unsafe extern "C" fn handle(
        _signal: i32,
        info: *mut libc::siginfo_t,
        _context: *mut libc::c_void,
    ) {
        // SAFETY: the kernel gives valid information; SIGBUS has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        let mut line = [0; LINE];
        let path = find_path(address, &mut line);
        write(b"error: `");
        write(path.unwrap_or(b"a mapped file"));
        write(b"` was changed or cut short while it was in use; restore it, or load a copy of it\n");
        // SAFETY: ends the process at once; safe in signal handlers.
        unsafe { libc::_exit(1) }
    }

    fn write(bytes: &[u8]) {
        // SAFETY: writes from memory that is there; safe in signal handlers. There is nothing to do where it fails.
        unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
    }

    /// The path of the map that holds `address`, read from `/proc/self/maps` without allocating.
    pub(super) fn find_path(address: usize, line: &mut [u8; LINE]) -> Option<&[u8]> {
        const MAPS: &CStr = c"/proc/self/maps";
        // SAFETY: opens a file by a constant name; safe in signal handlers.
        let file = unsafe { libc::open(MAPS.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if file < 0 {
            return None;
        }
        let found = loop {
            let Some(length) = read_line(file, line) else { break None };
            if let Some(range) = path_range(line.get(..length)?, address) {
                break Some(range);
            }
        };
        // SAFETY: closes what was opened above.
        unsafe { libc::close(file) };
        line.get(found?).filter(|path| !path.is_empty())
    }

    /// Reads up to the next end of line; longer lines are cut. `None` at the end of the file.
    fn read_line(file: i32, line: &mut [u8; LINE]) -> Option<usize> {
        let mut length = 0;
        loop {
            let mut byte = 0_u8;
            // SAFETY: reads one byte into a variable; safe in signal handlers.
            let count = unsafe { libc::read(file, std::ptr::from_mut(&mut byte).cast(), 1) };
            match (count, byte) {
                (1, b'\n') => return Some(length),
                (1, _) if length < LINE => {
                    line[length] = byte;
                    length += 1;
                }
                (1, _) => {}
                _ => return None,
            }
        }
    }

    /// Where the path stands in a line like `7f00-7f01 r--p 0000 08:01 123   /path`, if the range holds `address`.
    fn path_range(line: &[u8], address: usize) -> Option<std::ops::Range<usize>> {
        let (start, rest) = hexadecimal(line)?;
        let (end, rest) = hexadecimal(rest.strip_prefix(b"-")?)?;
        if !(start..end).contains(&address) {
            return None;
        }
        let path = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        Some(line.len() - rest.len() + path..line.len())
    }

    fn hexadecimal(text: &[u8]) -> Option<(usize, &[u8])> {
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (number, rest) = text.split_at_checked(digits)?;
        let digit = |value: usize, &byte: &u8| {
            let digit = (byte as char).to_digit(16)? as usize;
            value.checked_mul(16)?.checked_add(digit)
        };
        Some((number.iter().try_fold(0, digit)?, rest))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_map_around_an_address_is_found() {
            let mut line = [0; LINE];
            let own = find_path(the_map_around_an_address_is_found as *const () as usize, &mut line).unwrap();
            assert!(std::str::from_utf8(own).unwrap().contains("lathe_runtime"));
            let value = 1;
            assert_eq!(find_path(&raw const value as usize, &mut [0; LINE]), None, "the stack has no file");
            assert_eq!(find_path(8, &mut [0; LINE]), None);
        }
    }
}
