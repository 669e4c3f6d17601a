//! Which errors of a start are the device's.
//!
//! A sync or write that fails while the node runs ends the process with
//! [`EXIT_STORE_FAILED`]; so does one that fails while it starts. What an
//! operator can mend (a path, a permission, a full volume) is an ordinary error.

use std::error::Error;
use std::io;

use rustix::io::Errno;
use tidegate_store::{AppendError, Fatal, IdentityError, OpenError, ReadError};

use super::EXIT_STORE_FAILED;
use super::replay::ReplayError;

/// The exit status of a process that cannot run, if the disk is why.
pub fn exit_status(error: &anyhow::Error) -> Option<i32> {
    error.chain().any(is_of_the_device).then_some(EXIT_STORE_FAILED)
}

fn is_of_the_device(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return is_device(error);
    }
    if let Some(OpenError::Io { error, .. }) = error.downcast_ref() {
        return is_device(error);
    }
    if let Some(ReplayError::Read { error: ReadError::Io(error), .. }) = error.downcast_ref() {
        return is_device(error);
    }
    if let Some(IdentityError::Io(error)) = error.downcast_ref() {
        return is_device(error);
    }
    error.is::<Fatal>() || matches!(error.downcast_ref(), Some(AppendError::Fatal(_)))
}

/// Whether the device has failed, rather than that something is not as it has
/// to be.
fn is_device(error: &io::Error) -> bool {
    let of_device = [Errno::IO, Errno::REMOTEIO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA];
    error.get_ref().is_some_and(|inner| inner.is::<Fatal>())
        || error
            .raw_os_error()
            .is_some_and(|number| of_device.iter().any(|known| known.raw_os_error() == number))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anyhow::Context;

    use super::*;

    /// EIO, and what an operator can mend.
    const EIO: i32 = 5;
    const OF_OPERATORS: [i32; 5] = [2, 13, 28, 30, 98];

    fn opened(number: i32) -> anyhow::Error {
        let error = io::Error::from_raw_os_error(number);
        let error: Result<(), _> = Err(OpenError::Io { file: "log".into(), error });
        error.context("the store").expect_err("it is one")
    }

    #[test]
    fn a_device_that_fails_in_the_start_has_the_status_of_one_that_fails_later() {
        assert_eq!(exit_status(&opened(EIO)), Some(EXIT_STORE_FAILED));
        let error = Arc::new(io::Error::from_raw_os_error(28));
        let fatal = Fatal { what: "sync", file: "log".into(), error };
        let first = AppendError::Fatal(fatal.clone()).into();
        assert_eq!(exit_status(&first), Some(EXIT_STORE_FAILED), "a sync without room as well");
        let begun = OpenError::Io { file: "log".into(), error: io::Error::other(fatal) };
        assert_eq!(exit_status(&begun.into()), Some(EXIT_STORE_FAILED));
        let identity = IdentityError::Io(io::Error::from_raw_os_error(EIO));
        assert_eq!(exit_status(&identity.into()), Some(EXIT_STORE_FAILED));
    }

    #[test]
    fn what_an_operator_can_mend_is_an_ordinary_error() {
        for number in OF_OPERATORS {
            assert_eq!(exit_status(&opened(number)), None, "{number}");
        }
        assert_eq!(exit_status(&anyhow::anyhow!("node.name: too long")), None);
    }
}
