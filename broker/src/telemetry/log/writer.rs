//! The thread that writes log lines.
//!
//! A pipe whose reader does not read blocks who writes to it. Only this thread
//! may be blocked: everybody else puts a line into a bounded queue, or counts
//! it as lost.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use super::LOG_TARGET;
use super::limit::{RateLimit, SUMMARY_EVERY};

/// Lines that wait; a further one is lost.
const LINES_MAX: usize = 4_096;
/// Bytes of lines that wait; a line beyond them is lost.
const BYTES_MAX: usize = 1 << 20;
/// Bytes written at once.
const BATCH_BYTES: usize = 64 << 10;
/// Between two attempts where a stream was left non-blocking and takes nothing.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

enum Job {
    Line(String),
    /// Tells when all before it is written.
    Flush(SyncSender<()>),
}

#[derive(Default)]
struct Shared {
    /// Bytes that wait.
    bytes: AtomicUsize,
    /// Lines that were lost.
    unread: AtomicU64,
}

impl Writer {
    /// Starts the thread, which tells what `limit` held back as well.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn start(to: Box<dyn Write + Send>, limit: Arc<RateLimit>) -> io::Result<Writer> {
        let (jobs, waiting) = sync_channel(LINES_MAX);
        let shared = Arc::new(Shared::default());
        let thread = Thread { to, limit, shared: shared.clone(), told: 0 };
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            // It came before the node gave up what root may; it needs none of it.
            let _ = tidegate_kernel::capabilities::drop_all(false);
            thread.run(&waiting);
        })?;
        Ok(Writer { jobs, shared })
    }

    /// Takes a line, or counts it as lost. Does not block.
    pub(super) fn push(&self, line: String) {
        let bytes = line.len();
        let waiting = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting > BYTES_MAX || self.jobs.try_send(Job::Line(line)).is_err() {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.unread.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines lost since the start.
    pub(super) fn unread(&self) -> u64 {
        self.shared.unread.load(Ordering::Relaxed)
    }

    /// Waits until all is written, for `patience` at most.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (done, is_done) = sync_channel(1);
        let mut job = Job::Flush(done);
        // The queue may be full, and its reader stuck for ever.
        loop {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            match self.jobs.try_send(job) {
                Ok(()) => break,
                Err(Full(back)) if Instant::now() < deadline => job = back,
                Err(Full(_) | Disconnected(_)) => return,
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

struct Thread {
    to: Box<dyn Write + Send>,
    limit: Arc<RateLimit>,
    shared: Arc<Shared>,
    /// Lost lines that were told.
    told: u64,
}

impl Thread {
    fn run(mut self, waiting: &Receiver<Job>) {
        let mut summary_at = Instant::now() + SUMMARY_EVERY;
        loop {
            let patience = summary_at.saturating_duration_since(Instant::now());
            match waiting.recv_timeout(patience) {
                Ok(job) => self.write(job, waiting),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= summary_at {
                summary_at = Instant::now() + SUMMARY_EVERY;
                // Lines of their own, which come by the queue.
                self.limit.summarise();
                self.tell_lost();
            }
        }
    }

    /// Writes a line and those that wait behind it.
    fn write(&mut self, first: Job, waiting: &Receiver<Job>) {
        let mut batch = Vec::new();
        let mut lines = 0;
        let mut flushed = None;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Line(line) => {
                    batch.extend_from_slice(line.as_bytes());
                    lines += 1;
                }
                Job::Flush(done) => {
                    flushed = Some(done);
                    break;
                }
            }
            next = if batch.len() < BATCH_BYTES { waiting.try_recv().ok() } else { None };
        }
        if write_all(&mut self.to, &batch).is_err() {
            // The reader is gone; there may be another one (a restarted
            // collector behind a FIFO), so the next line is tried again.
            self.shared.unread.fetch_add(lines, Ordering::Relaxed);
        }
        self.shared.bytes.fetch_sub(batch.len(), Ordering::Relaxed);
        if let Some(done) = flushed {
            let _ = done.try_send(());
        }
    }

    fn tell_lost(&mut self) {
        let unread = self.shared.unread.load(Ordering::Relaxed);
        let lost = unread - self.told;
        if lost > 0 {
            self.told = unread;
            warn!(target: LOG_TARGET, lost, "log lines were lost: who reads them is too slow");
        }
    }
}

/// As [`Write::write_all`], also where the stream is non-blocking.
fn write_all(to: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(TRY_AGAIN),
            Err(error) => return Err(error),
        }
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A pipe that takes nothing until it is told to.
    struct Stuck(mpsc::Receiver<()>, Arc<AtomicU64>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            self.1.fetch_add(lines as u64, Ordering::Relaxed);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer(to: impl Write + Send + 'static) -> Writer {
        Writer::start(Box::new(to), Arc::new(RateLimit::new(0))).expect("a thread")
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_nobody_time() {
        let (open, stuck) = mpsc::channel();
        let written = Arc::new(AtomicU64::new(0));
        let writer = writer(Stuck(stuck, written.clone()));
        let began = Instant::now();
        for _ in 0..100_000 {
            writer.push("a line\n".to_owned());
        }
        // No exit waits for it for ever either.
        writer.flush(Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let lost = writer.unread();
        assert!(lost >= 80_000, "the queue is bounded: {lost} lost");

        drop(open);
        writer.flush(Duration::from_secs(10));
        assert_eq!(written.load(Ordering::Relaxed) + lost, 100_000);
        assert_eq!(writer.shared.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn waiting_bytes_are_bounded_as_well() {
        let (_open, stuck) = mpsc::channel();
        let writer = writer(Stuck(stuck, Arc::default()));
        for _ in 0..100 {
            writer.push("x".repeat(64 << 10));
        }
        assert!(writer.shared.bytes.load(Ordering::Relaxed) <= BYTES_MAX);
        assert!(writer.unread() >= 100 - 17, "{}", writer.unread());
    }

    #[test]
    fn a_reader_that_left_is_counted() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let writer = writer(Gone);
        writer.push("a line\n".to_owned());
        writer.flush(Duration::from_secs(10));
        assert_eq!(writer.unread(), 1);
    }
}
