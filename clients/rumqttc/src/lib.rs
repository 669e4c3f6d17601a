//! One rumqttc client as a case sees it, for both of its protocol versions.
//!
//! rumqttc keeps two unrelated clients, one a version. [`Client`] is what the
//! cases need of either, so that a case is written once and runs through both.

mod v4;
mod v5;

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use v4::V4;
pub use v5::{PublishProperties, V5, V5Options, WillProperties};

/// How long a case waits for anything before it fails.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The largest packet that either client takes or sends.
pub const PACKET_BYTES_MAX: u32 = 1 << 20;

/// A message as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub pkid: u16,
    /// Empty before 5.0.
    pub properties: PublishProperties,
}

/// What a client may be asked to connect with, in every version.
#[derive(Clone, Debug)]
pub struct Options {
    pub client_id: String,
    /// Whether the session begins anew and ends with the connection.
    pub clean: bool,
    pub will: Option<Will>,
    /// Whether nothing is acknowledged.
    pub never_acknowledge: bool,
    pub keep_alive: Duration,
}

/// A will.
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
}

impl Options {
    /// A clean session under a client id that nobody else has.
    pub fn clean() -> Options {
        Options {
            client_id: word(),
            clean: true,
            will: None,
            never_acknowledge: false,
            keep_alive: Duration::from_secs(60),
        }
    }

    /// A session that outlives its connection.
    pub fn kept(client_id: &str) -> Options {
        Options { client_id: client_id.to_owned(), clean: false, ..Options::clean() }
    }

    /// The same with a will.
    pub fn will(self, topic: &str, payload: &str, qos: u8, retain: bool) -> Options {
        let will = Will { topic: topic.to_owned(), payload: payload.into(), qos, retain };
        Options { will: Some(will), ..self }
    }
}

/// An answer of the broker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Connected {
        session_present: bool,
    },
    /// The name of the reason code; "Success" before 5.0.
    Published(String),
    Subscribed(Vec<u8>),
    Unsubscribed(Vec<String>),
    Closed(String),
}

/// What comes from a client's event loop, which runs as a task.
pub struct Link {
    messages: mpsc::UnboundedReceiver<Message>,
    answers: mpsc::UnboundedReceiver<Answer>,
    task: JoinHandle<()>,
    pub session_present: bool,
}

impl Link {
    pub(crate) async fn open(
        messages: mpsc::UnboundedReceiver<Message>,
        answers: mpsc::UnboundedReceiver<Answer>,
        task: JoinHandle<()>,
    ) -> Link {
        let mut link = Link { messages, answers, task, session_present: false };
        match link.answer().await {
            Answer::Connected { session_present } => link.session_present = session_present,
            other => panic!("{other:?} instead of CONNACK"),
        }
        link
    }

    async fn answer(&mut self) -> Answer {
        timeout(PATIENCE, self.answers.recv())
            .await
            .expect("the broker answers in time")
            .expect("the event loop runs")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connected client.
pub trait Client: Sized {
    fn connect(options: Options) -> impl Future<Output = Self>;
    fn link(&mut self) -> &mut Link;
    fn send_subscribe(&self, filters: &[(&str, u8)]) -> impl Future<Output = ()>;
    fn send_unsubscribe(&self, filter: &str) -> impl Future<Output = ()>;
    fn send_publish(
        &self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        retain: bool,
    ) -> impl Future<Output = ()>;
    fn send_disconnect(&self) -> impl Future<Output = ()>;

    /// Subscribes and gives the codes of the SUBACK.
    fn subscribe(&mut self, filters: &[(&str, u8)]) -> impl Future<Output = Vec<u8>> {
        async {
            self.send_subscribe(filters).await;
            match self.link().answer().await {
                Answer::Subscribed(codes) => codes,
                other => panic!("{other:?} instead of SUBACK"),
            }
        }
    }

    /// Unsubscribes and gives the codes of the UNSUBACK, by name.
    fn unsubscribe(&mut self, filter: &str) -> impl Future<Output = Vec<String>> {
        async {
            self.send_unsubscribe(filter).await;
            match self.link().answer().await {
                Answer::Unsubscribed(codes) => codes,
                other => panic!("{other:?} instead of UNSUBACK"),
            }
        }
    }

    /// Publishes and gives the reason of the last acknowledgement, by name.
    fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        retain: bool,
    ) -> impl Future<Output = String> {
        async move {
            self.send_publish(topic, payload, qos, retain).await;
            self.published().await
        }
    }

    /// Waits for the end of one exchange.
    fn published(&mut self) -> impl Future<Output = String> {
        async {
            match self.link().answer().await {
                Answer::Published(reason) => reason,
                other => panic!("{other:?} instead of the acknowledgement"),
            }
        }
    }

    /// The next message.
    fn receive(&mut self) -> impl Future<Output = Message> {
        async {
            timeout(PATIENCE, self.link().messages.recv())
                .await
                .expect("a message comes")
                .expect("the event loop runs")
        }
    }

    /// The payloads of the next messages, as text.
    fn receive_texts(&mut self, count: usize) -> impl Future<Output = Vec<String>> {
        async move {
            let mut texts = Vec::new();
            for _ in 0..count {
                texts.push(String::from_utf8(self.receive().await.payload).expect("sent as text"));
            }
            texts
        }
    }

    /// A message if one is there already.
    fn pending(&mut self) -> Option<Message> {
        self.link().messages.try_recv().ok()
    }

    /// Waits until the broker has closed the connection; gives rumqttc's words.
    fn closed(&mut self) -> impl Future<Output = String> {
        async {
            match self.link().answer().await {
                Answer::Closed(why) => why,
                other => panic!("{other:?} instead of the end"),
            }
        }
    }

    /// Ends with a DISCONNECT.
    fn end(mut self) -> impl Future<Output = ()> {
        async move {
            self.send_disconnect().await;
            self.closed().await;
        }
    }

    /// Cuts the connection without a DISCONNECT.
    fn cut(mut self) {
        // The task owns the socket; it closes when the aborted task is dropped.
        self.link().task.abort();
    }
}

/// A word that no other case uses.
pub fn word() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let nanos = since.as_nanos() as u64 & 0xFFFF_FFFF_FFFF;
    format!("r{nanos:x}{:x}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Host and port of the broker under test.
pub fn address() -> (String, u16) {
    let address = std::env::var("MQTT_ADDRESS").expect("clients/run sets MQTT_ADDRESS");
    let (host, port) = address.rsplit_once(':').expect("HOST:PORT");
    (host.to_owned(), port.parse().expect("a port number"))
}

/// Runs each named case through both versions.
#[macro_export]
macro_rules! both_versions {
    ($($case:ident),* $(,)?) => {
        mod v4 {
            $(#[tokio::test] async fn $case() { super::$case::<rumqttc_suite::V4>().await })*
        }
        mod v5 {
            $(#[tokio::test] async fn $case() { super::$case::<rumqttc_suite::V5>().await })*
        }
    };
}
