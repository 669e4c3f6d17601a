//! Histories cut into sessions, as far as a client can tell.
//!
//! A client does not always know whether its session went on: an attempt that
//! was never answered may have begun a new one, or the time it had may just
//! have run out. A life that began with such a doubt is not `solid`, and
//! checkers that need to know everything about it pass it over.

use std::collections::BTreeMap;

use crate::history::{Event, History, MessageId, NODE};

/// What both ends of a wire may need to notice something.
pub(super) const SLACK_MS: u64 = 400;

/// What is not waited for is durable after this at the latest.
pub(super) const LAZY_MS: u64 = 2_000;

/// A session of a client, from its CONNACK to its end.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) client: usize,
    /// Where it ended; `usize::MAX`: not in this history.
    pub(super) to: usize,
    /// It is known that nothing came before.
    pub(super) solid: bool,
    /// Connections that it had.
    pub(super) conns: usize,
    pub(super) subs: Vec<Sub>,
    pub(super) receipts: Vec<Receipt>,
}

/// A subscription of a life; times are places in the history.
#[derive(Debug)]
pub(super) struct Sub {
    pub(super) filter: &'static str,
    pub(super) qos: u8,
    pub(super) sent: usize,
    pub(super) conn: u32,
    pub(super) granted: Option<usize>,
    pub(super) ending: Option<usize>,
    pub(super) ended: Option<usize>,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Receipt {
    pub(super) at: usize,
    pub(super) conn: u32,
    pub(super) message: MessageId,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) new: bool,
}

/// What became of a message at its publisher's.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// Where it was sent first; for a will, where it was left.
    pub(super) first: Option<usize>,
    pub(super) sends: usize,
    pub(super) acked: Option<usize>,
    pub(super) completed: Option<usize>,
    pub(super) nacked: bool,
    /// The session that its publisher had then.
    pub(super) life: Option<usize>,
    /// Sent once more in a session that may be another one: nobody can tell it
    /// from a new message then.
    pub(super) tainted: bool,
}

/// A connection.
#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub(super) client: usize,
    pub(super) sent: usize,
    pub(super) expiry: u32,
    pub(super) will: Option<MessageId>,
    pub(super) connack: Option<usize>,
    /// What its client did about its end first, or saw of it.
    pub(super) end: Option<usize>,
    /// Where the broker's end of it was seen.
    pub(super) closed: Option<usize>,
    /// The broker closed it before it had read all that came.
    pub(super) unread: bool,
}

/// A Session Present that is not true.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) client: usize,
    pub(super) at: usize,
    pub(super) got: bool,
}

#[derive(Debug, Default)]
pub(super) struct Lives {
    pub(super) lives: Vec<Life>,
    pub(super) sent: Vec<Sent>,
    pub(super) conns: BTreeMap<u32, Conn>,
    pub(super) wrong: Vec<Wrong>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Absent,
    Present,
    Unknown,
}

#[derive(Debug)]
struct Attempt {
    conn: u32,
    clean: bool,
    expiry: u32,
    ms: u64,
}

/// What is known of a client's session.
#[derive(Debug, Default)]
struct Track {
    state: State,
    expiry: u32,
    /// When its last connection ended, at the earliest and at the latest.
    ended: Option<(u64, Option<u64>)>,
    attempts: Vec<Attempt>,
    /// The connection that was accepted last, and is not over.
    current: Option<(u32, u32)>,
    last: u32,
    life: Option<usize>,
    /// UNSUBSCRIBEs without an answer.
    unasked: Vec<(u32, &'static str, usize)>,
}

impl Track {
    /// What Session Present has to be for the last attempt.
    fn expect(&self, ms: u64, clock_back: bool) -> State {
        let Some((last, earlier)) = self.attempts.split_last() else { return State::Unknown };
        if last.clean {
            return State::Absent;
        }
        let mut state = self.state;
        if let (State::Present, Some((earliest, latest))) = (state, self.ended) {
            let lasts = |from: u64, expiry: u32| match expiry {
                u32::MAX => u64::MAX,
                seconds => from + u64::from(seconds) * 1000,
            };
            let tries = earlier.iter().map(|attempt| lasts(attempt.ms, attempt.expiry));
            let surely = tries.chain([lasts(earliest, self.expiry)]).min().unwrap_or(0);
            let over = latest.map_or(u64::MAX, |latest| lasts(latest, self.expiry));
            if ms.saturating_add(SLACK_MS) >= surely {
                state = State::Unknown;
                if earlier.is_empty() && !clock_back && last.ms > over.saturating_add(SLACK_MS) {
                    state = State::Absent;
                }
            }
        }
        let doubtful = |attempt: &Attempt| attempt.clean || attempt.expiry == 0;
        match state {
            State::Absent if !earlier.is_empty() => State::Unknown,
            State::Present if earlier.iter().any(doubtful) => State::Unknown,
            State::Absent | State::Present | State::Unknown => state,
        }
    }
}

impl Lives {
    pub(super) fn of(history: &History) -> Lives {
        let clients = history.iter().filter(|(_, e)| e.client != NODE).map(|(_, e)| e.client);
        let clients = clients.max().map_or(0, |most| most + 1);
        let mut tracks: Vec<Track> = (0..clients).map(|_| Track::default()).collect();
        let mut lives =
            Lives { sent: vec![Sent::default(); history.messages.len()], ..Lives::default() };
        let mut down = false;
        for (at, entry) in history.iter() {
            if entry.client == NODE {
                match entry.event {
                    Event::Crash => down = true,
                    _ if entry.event == Event::Restart => {
                        down = false;
                        // In a cluster nobody knows when the others learn of it.
                        let tracks = tracks.iter_mut().filter(|_| !history.cluster);
                        for track in tracks {
                            if let Some((_, latest)) = &mut track.ended {
                                *latest = Some(entry.ms);
                            }
                        }
                    }
                    _ => {}
                }
                continue;
            }
            let (ms, conn) = (entry.ms, entry.conn);
            let track = &mut tracks[entry.client];
            match &entry.event {
                Event::Connect { clean, expiry, will } => {
                    lives.lets_go(track, at, ms);
                    if *clean {
                        lives.end(track, at);
                    }
                    let attempt = Attempt { conn, clean: *clean, expiry: *expiry, ms };
                    track.attempts.push(attempt);
                    if let Some(will) = will {
                        lives.sent[*will as usize].first = Some(at);
                    }
                    let conn_of = Conn {
                        client: entry.client,
                        sent: at,
                        expiry: *expiry,
                        will: *will,
                        connack: None,
                        end: None,
                        closed: None,
                        unread: false,
                    };
                    lives.conns.insert(conn, conn_of);
                }
                Event::Connack { present } => {
                    let expected = track.expect(ms, history.clock_back);
                    let wrong = match expected {
                        State::Absent => *present,
                        State::Present => !*present,
                        State::Unknown => false,
                    };
                    if wrong {
                        lives.wrong.push(Wrong { client: entry.client, at, got: *present });
                    }
                    let goes_on = *present && expected == State::Present && track.life.is_some();
                    if !goes_on {
                        lives.end(track, at);
                        track.life = Some(lives.lives.len());
                        lives.lives.push(Life {
                            client: entry.client,
                            to: usize::MAX,
                            solid: !*present,
                            conns: 0,
                            subs: Vec::new(),
                            receipts: Vec::new(),
                        });
                    }
                    if let Some(life) = track.life {
                        lives.lives[life].conns += 1;
                    }
                    if let Some(attempt) = track.attempts.iter().find(|a| a.conn == conn) {
                        track.current = Some((conn, attempt.expiry));
                        track.expiry = attempt.expiry;
                    }
                    track.state = State::Present;
                    track.ended = None;
                    // One that was overtaken on its way may still come.
                    let open =
                        |a: &Attempt| lives.conns.get(&a.conn).is_some_and(|c| c.closed.is_none());
                    track.attempts.retain(|a| a.conn != conn && open(a));
                    if let Some(conn) = lives.conns.get_mut(&conn) {
                        conn.connack = Some(at);
                    }
                }
                Event::Refused => {}
                Event::Unread => {
                    if let Some(conn) = lives.conns.get_mut(&conn) {
                        conn.unread = true;
                    }
                }
                Event::Abort | Event::Disconnect | Event::Closed => {
                    if track.current.is_some_and(|(current, _)| current == conn) {
                        lives.lets_go(track, at, ms);
                    }
                    if entry.event == Event::Closed {
                        if let Some((_, latest @ None)) = &mut track.ended
                            && track.last == conn
                            && !down
                            && (history.calm || !history.cluster)
                        {
                            *latest = Some(ms);
                        }
                        if let Some(conn) = lives.conns.get_mut(&conn) {
                            conn.closed.get_or_insert(at);
                        }
                    }
                    if let Some(conn) = lives.conns.get_mut(&conn) {
                        conn.end.get_or_insert(at);
                    }
                }
                Event::Publish { message, dup } => {
                    let sent = &mut lives.sent[*message as usize];
                    if sent.first.is_none() {
                        (sent.first, sent.life) = (Some(at), track.life);
                    }
                    sent.sends += 1;
                    let solid = track.life.is_some_and(|life| lives.lives[life].solid);
                    sent.tainted |= *dup && !solid;
                }
                Event::Acked { message } => {
                    lives.sent[*message as usize].acked.get_or_insert(at);
                }
                Event::Completed { message } => {
                    lives.sent[*message as usize].completed.get_or_insert(at);
                }
                Event::Nacked { message } => lives.sent[*message as usize].nacked = true,
                Event::Subscribe { filter, qos } => {
                    let sub = Sub {
                        filter,
                        qos: *qos,
                        sent: at,
                        conn,
                        granted: None,
                        ending: None,
                        ended: None,
                    };
                    lives.life(track, |life| life.subs.push(sub));
                }
                // Answers come in the order of the questions.
                Event::Suback { filter } => lives.life(track, |life| {
                    let asked = |sub: &&mut Sub| {
                        sub.filter == *filter && sub.conn == conn && sub.granted.is_none()
                    };
                    if let Some(sub) = life.subs.iter_mut().find(asked) {
                        sub.granted = Some(at);
                    }
                }),
                Event::Unsubscribe { filter } => {
                    track.unasked.push((conn, *filter, at));
                    lives.life(track, |life| {
                        for sub in life.subs.iter_mut().filter(|sub| sub.filter == *filter) {
                            sub.ending.get_or_insert(at);
                        }
                    });
                }
                Event::Unsuback { filter } => {
                    let of = |wish: &(u32, &str, usize)| wish.0 == conn && wish.1 == *filter;
                    if let Some(nth) = track.unasked.iter().position(of) {
                        let (_, _, asked) = track.unasked.remove(nth);
                        lives.life(track, |life| {
                            let over = |sub: &&mut Sub| {
                                sub.filter == *filter && sub.ending.is_some_and(|at| at <= asked)
                            };
                            for sub in life.subs.iter_mut().filter(over) {
                                sub.ended.get_or_insert(at);
                            }
                        });
                    }
                }
                Event::Received { message, topic: _, qos, retain, dup, new } => {
                    let receipt = Receipt {
                        at,
                        conn,
                        message: *message,
                        qos: *qos,
                        retain: *retain,
                        dup: *dup,
                        new: *new,
                    };
                    lives.life(track, |life| life.receipts.push(receipt));
                }
                Event::Unasked { .. }
                | Event::StillServed
                | Event::Garbage { .. }
                | Event::Crash
                | Event::Restart
                | Event::Heal => {}
            }
        }
        lives
    }

    /// A subscription of a life that was certain before a message was sent, and
    /// is to the end, at QoS 1 or 2.
    pub(super) fn is_owed(life: &Life, topic: &str, before: usize) -> Option<u8> {
        let sure = life.subs.iter().filter(|sub| {
            sub.granted.is_some_and(|granted| granted < before)
                && sub.ending.is_none()
                && !sub.filter.starts_with('$')
                && tidegate_codec::matches(sub.filter, topic)
        });
        let qos = sure.map(|sub| sub.qos).max()?;
        (qos > 0 && life.to == usize::MAX).then_some(qos)
    }

    fn life(&mut self, track: &Track, act: impl FnOnce(&mut Life)) {
        if let Some(life) = track.life.and_then(|life| self.lives.get_mut(life)) {
            act(life);
        }
    }

    /// The client has no connection any more, or begins another.
    fn lets_go(&mut self, track: &mut Track, at: usize, ms: u64) {
        let Some((conn, expiry)) = track.current.take() else { return };
        track.last = conn;
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.end.get_or_insert(at);
        }
        if expiry == 0 {
            track.state = State::Absent;
            self.end(track, at);
        } else {
            track.ended = Some((ms, None));
        }
    }

    fn end(&mut self, track: &mut Track, at: usize) {
        if let Some(life) = track.life.take() {
            self.lives[life].to = at;
        }
    }
}
