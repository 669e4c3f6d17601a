//! The two-sided account of every message.
//!
//! Publishers enter what they sent and what was acknowledged, subscribers what
//! reached them; only the two together can tell loss from silence. A broker is
//! held to what the standard promises for the QoS at hand and to no more: at
//! QoS 0 loss is reported and forgiven, at QoS 1 repetition is, at QoS 2
//! neither, and a message never acknowledged is owed to nobody.
//!
//! Memory is bounded: one [`Intervals`] a publisher and a route, and a common
//! budget for what went wrong. Past the budget deliveries are counted as
//! unrecorded, and the verdict can no longer be good.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use tidegate_codec::QoS;

use crate::identity::{Identity, IdentityError};
use crate::intervals::{Inserted, Intervals, Span, count, difference, intersection, union};
use crate::outcome::{Breach, LedgerReport, Promise, Takeovers, Tally, Verdict};
use marks::Marks;
pub use part::LedgerPart;
use part::{RoutePart, StreamPart};
use registers::RetainedReport;

/// Intervals beyond which deliveries are unrecorded: 64 MiB.
pub const INTERVALS_MAX: usize = 4 << 20;

/// The account of one run, or of one worker's share of it.
#[derive(Debug)]
pub struct Ledger {
    run: u32,
    streams: Vec<Stream>,
    stream_ids: HashMap<(u32, u8), u32>,
    routes: Vec<Route>,
    route_of: HashMap<(u32, u32, u8), u32, RandomState>,
    /// Who had no session for a while, whose publisher is another worker's.
    absences: Vec<Absence>,
    forgotten: u64,
    /// The group of a receiver that shares its subscription.
    groups: HashMap<u32, u32>,
    /// Receivers whose connection was over for a while.
    cut_off: HashSet<u32>,
    takeovers: Takeovers,
    /// What looks at retained messages found.
    pub retained: RetainedReport,
    damaged: u64,
    misrouted: u64,
    foreign: u64,
    /// Intervals in use over all sets.
    intervals: usize,
    intervals_max: usize,
}

/// One publisher's messages of one QoS, numbered from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct StreamId(u32);

/// One subscriber's expectation of one stream.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RouteId(u32);

/// What a subscriber was promised of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    /// The subscriber, unique over all workers. The members of a shared
    /// subscription are one receiver.
    pub receiver: u32,
    /// The publisher.
    pub publisher: u32,
    /// The QoS it publishes with.
    pub published: QoS,
    /// The QoS the SUBACK granted.
    pub granted: QoS,
    /// Whether order is promised; not within a shared subscription.
    pub ordered: bool,
    /// The first message that is owed.
    pub from: u64,
}

/// What a delivery turned out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// The first of its message: its latency counts.
    First,
    /// The first, after a later message of its stream had come.
    Late,
    /// Came before.
    Again,
    /// Of another run or program.
    Foreign,
    /// Changed on the way.
    Damaged,
    /// Not for this receiver.
    Misrouted,
    /// Beyond what the ledger can keep apart.
    Unrecorded,
}

#[derive(Debug)]
struct Stream {
    publisher: u32,
    qos: QoS,
    published: u64,
    acknowledged: Intervals,
    unrecorded: u64,
    /// Its publisher is here: `published` is all there is.
    local: bool,
    /// Its publisher sent something again.
    repeats: bool,
    marks: Marks,
}

/// A route without a session, from a message on until a time.
#[derive(Clone, Copy, Debug)]
struct Absence {
    route: u32,
    from: u64,
    /// None: to the end.
    until_ns: Option<u64>,
}

#[derive(Debug)]
struct Route {
    stream: u32,
    receiver: u32,
    granted: QoS,
    ordered: bool,
    from: u64,
    delivered: Intervals,
    // Of one subscriber and publisher: what comes after four thousand million
    // is not counted, and condemns no more than they did.
    duplicated: u32,
    reordered: u32,
    unrecorded: u32,
    /// What is not owed: a clean session was away.
    excused: Option<Box<Intervals>>,
}

// A million subscribers are 64 MB of the harness's own memory.
const _: () = assert!(size_of::<Route>() == 64);

impl Ledger {
    /// The account of run `run`.
    pub fn new(run: u32) -> Self {
        Self::with_limit(run, INTERVALS_MAX)
    }

    /// The same with another bound on intervals.
    pub fn with_limit(run: u32, intervals_max: usize) -> Self {
        Self {
            run,
            streams: Vec::new(),
            stream_ids: HashMap::new(),
            routes: Vec::new(),
            route_of: HashMap::default(),
            absences: Vec::new(),
            forgotten: 0,
            groups: HashMap::new(),
            cut_off: HashSet::new(),
            takeovers: Takeovers::default(),
            retained: RetainedReport::default(),
            damaged: 0,
            misrouted: 0,
            foreign: 0,
            intervals: 0,
            intervals_max,
        }
    }

    /// The stream of a publisher and QoS that publishes into this ledger.
    pub fn stream(&mut self, publisher: u32, qos: QoS) -> StreamId {
        let id = self.stream_of(publisher, qos);
        self.streams[id.0 as usize].local = true;
        id
    }

    fn stream_of(&mut self, publisher: u32, qos: QoS) -> StreamId {
        let next = self.streams.len() as u32;
        let id = *self.stream_ids.entry((publisher, qos as u8)).or_insert(next);
        if id == next {
            self.streams.push(Stream {
                publisher,
                qos,
                published: 0,
                acknowledged: Intervals::default(),
                unrecorded: 0,
                local: false,
                repeats: false,
                marks: Marks::default(),
            });
        }
        StreamId(id)
    }

    /// Enters a publish and numbers it.
    pub fn publish(&mut self, stream: StreamId) -> u64 {
        let stream = &mut self.streams[stream.0 as usize];
        stream.published += 1;
        stream.published - 1
    }

    /// The same, and when; a ledger that notes times can excuse absences that another worker saw.
    pub fn publish_at(&mut self, stream: StreamId, now: u64) -> u64 {
        let sequence = self.publish(stream);
        self.streams[stream.0 as usize].marks.note(now, sequence);
        sequence
    }

    /// Enters the acknowledgement that made a message the broker's: PUBACK, or
    /// PUBREC, since after it the message is never sent again.
    ///
    /// One that refuses (a reason of 0x80 and above) is not entered.
    pub fn acknowledge(&mut self, stream: StreamId, sequence: u64) {
        let room = self.intervals < self.intervals_max;
        let stream = &mut self.streams[stream.0 as usize];
        let before = stream.acknowledged.len();
        if stream.acknowledged.insert(sequence, room) == Inserted::NoRoom {
            stream.unrecorded += 1;
        }
        self.intervals = self.intervals + stream.acknowledged.len() - before;
    }

    /// Enters a subscription. Entering it again changes nothing.
    pub fn expect(&mut self, expectation: &Expectation) -> RouteId {
        let Expectation { receiver, publisher, published, granted, ordered, from } = *expectation;
        let stream = self.stream_of(publisher, published).0;
        let next = self.routes.len() as u32;
        let id = *self.route_of.entry((receiver, publisher, published as u8)).or_insert(next);
        if id == next {
            self.routes.push(Route {
                stream,
                receiver,
                granted,
                ordered,
                from,
                delivered: Intervals::default(),
                duplicated: 0,
                reordered: 0,
                unrecorded: 0,
                excused: None,
            });
        }
        RouteId(id)
    }

    /// Messages that are not owed on a route, because its clean session was away.
    pub fn excuse(&mut self, route: RouteId, missed: Span) {
        let excused = self.routes[route.0 as usize].excused.get_or_insert_default();
        let before = excused.len();
        excused.extend(&[missed]);
        self.intervals = self.intervals + excused.len() - before;
    }

    /// A receiver's session ended with its connection. What it has not got by now is not owed, nor
    /// is what is published until it is [`present`](Self::present).
    ///
    /// Costs a pass over all routes.
    pub fn absent(&mut self, receiver: u32) {
        for (at, route) in self.routes.iter().enumerate() {
            if route.receiver == receiver {
                let from = route.delivered.end().max(route.from);
                self.absences.push(Absence { route: at as u32, from, until_ns: None });
            }
        }
    }

    /// It has a session again, and its subscriptions were granted.
    ///
    /// For publishers of this ledger that is exact; for those of another worker it is as exact as
    /// the times they noted.
    pub fn present(&mut self, receiver: u32, now: u64) {
        let mut known = Vec::new();
        let (routes, streams) = (&self.routes, &self.streams);
        self.absences.retain_mut(|absence| {
            let route = &routes[absence.route as usize];
            if route.receiver != receiver || absence.until_ns.is_some() {
                return true;
            }
            let stream = &streams[route.stream as usize];
            if stream.local {
                known.push((RouteId(absence.route), (absence.from, stream.published)));
            }
            absence.until_ns = Some(now);
            !stream.local
        });
        for (route, missed) in known {
            if missed.0 < missed.1 {
                self.excuse(route, missed);
            }
        }
    }

    /// A receiver is a member of a group: of all its members one gets each message.
    pub fn join(&mut self, receiver: u32, group: u32) {
        self.groups.insert(receiver, group);
    }

    /// A receiver's connection is over: what it did not acknowledge may go to another member of
    /// its group.
    pub fn cut_off(&mut self, receiver: u32) {
        if self.groups.contains_key(&receiver) {
            self.cut_off.insert(receiver);
        }
    }

    /// A publisher sends something again.
    pub fn repeat(&mut self, stream: StreamId) {
        self.streams[stream.0 as usize].repeats = true;
    }

    /// A client came a second time. Its first connection ended, or did not; before that it was
    /// told 0x8E, or was not.
    pub fn taken_over(&mut self, ended: bool, told: bool) {
        self.takeovers.done += 1;
        self.takeovers.lived_on += u64::from(!ended);
        self.takeovers.untold += u64::from(ended && !told);
    }

    /// A session that was to outlive its connection did not.
    pub fn forget(&mut self) {
        self.forgotten += 1;
    }

    /// Messages published on a stream so far.
    pub fn published(&self, stream: StreamId) -> u64 {
        self.streams[stream.0 as usize].published
    }

    /// Enters a delivery, from what its payload's identity decoded to.
    pub fn deliver(
        &mut self,
        receiver: u32,
        identity: &Result<Identity, IdentityError>,
    ) -> Arrival {
        let identity = match identity {
            Ok(identity) if identity.run == self.run => identity,
            Ok(_) | Err(IdentityError::TooShort { .. } | IdentityError::Foreign) => {
                self.foreign += 1;
                return Arrival::Foreign;
            }
            Err(IdentityError::Damaged { .. } | IdentityError::BadQos { .. }) => {
                self.damaged += 1;
                return Arrival::Damaged;
            }
        };
        let key = (receiver, identity.publisher, identity.qos as u8);
        let Some(&route) = self.route_of.get(&key) else {
            self.misrouted += 1;
            return Arrival::Misrouted;
        };
        self.deliver_on(RouteId(route), identity.sequence)
    }

    /// Enters a delivery whose route is known.
    fn deliver_on(&mut self, route: RouteId, sequence: u64) -> Arrival {
        let room = self.intervals < self.intervals_max;
        let route = &mut self.routes[route.0 as usize];
        let before = route.delivered.len();
        let inserted = route.delivered.insert(sequence, room);
        self.intervals = self.intervals + route.delivered.len() - before;
        match inserted {
            Inserted::InOrder => Arrival::First,
            Inserted::OutOfOrder => {
                bump(&mut route.reordered, 1);
                Arrival::Late
            }
            Inserted::Again => {
                bump(&mut route.duplicated, 1);
                Arrival::Again
            }
            Inserted::NoRoom => {
                bump(&mut route.unrecorded, 1);
                Arrival::Unrecorded
            }
        }
    }

    /// Deliveries of acknowledged messages (at QoS 0: of all) that are still out.
    ///
    /// What a run waits for at its end. Costs a pass over all routes, without
    /// an allocation for those that have everything.
    pub fn outstanding(&self) -> u64 {
        let waiting = self.routes.iter().filter(|route| {
            let published = self.streams[route.stream as usize].published;
            !route.delivered.covers((route.from, published))
        });
        waiting.map(|route| self.settle_route(route, &[]).lost).sum()
    }

    /// The account as it stands, and its verdict.
    pub fn report(&self) -> LedgerReport {
        let mut absences: HashMap<u32, Vec<Span>> = HashMap::new();
        for absence in &self.absences {
            let stream = &self.streams[self.routes[absence.route as usize].stream as usize];
            let until = absence.until_ns.and_then(|until| stream.marks.first_after(until));
            let span = (absence.from, until.unwrap_or(stream.published));
            absences.entry(absence.route).or_default().push(span);
        }
        let mut report = LedgerReport {
            forgotten: self.forgotten,
            takeovers: self.takeovers,
            retained: self.retained,
            damaged: self.damaged,
            misrouted: self.misrouted,
            foreign: self.foreign,
            ..LedgerReport::default()
        };
        for stream in &self.streams {
            let tally = &mut report.qos[stream.qos as usize];
            tally.published += stream.published;
            tally.acknowledged += stream.acknowledged.count();
            tally.unrecorded += stream.unrecorded;
        }
        // What breaks a promise is counted apart from what merely happened.
        let mut repeated = [0; 3];
        let mut reordered = [0; 3];
        let mut shared: HashMap<(u32, u32), Vec<&Route>> = HashMap::new();
        for (number, route) in self.routes.iter().enumerate() {
            if let Some(group) = self.groups.get(&route.receiver) {
                shared.entry((*group, route.stream)).or_default().push(route);
                continue;
            }
            let published = self.streams[route.stream as usize].qos;
            let at = published.min(route.granted) as usize;
            let away = absences.get(&(number as u32)).map_or(&[][..], |spans| spans);
            let settled = self.settle_route(route, away);
            add(&mut report.qos[at], &settled);
            if once(published) && once(route.granted) {
                repeated[at] += settled.duplicated;
            }
            if route.ordered {
                reordered[at] += settled.reordered;
            }
        }
        for members in shared.values() {
            self.settle_group(members, &mut report, &mut repeated);
        }
        report.verdict = verdict(&report, repeated, reordered);
        report
    }

    /// The members of a group and one stream: together they are one subscriber.
    ///
    /// [MQTT5 4.8.2]: one of them gets each message. At QoS 1 another may get it when the first
    /// lost its connection before it acknowledged, or when the publisher sent it again.
    fn settle_group(&self, members: &[&Route], report: &mut LedgerReport, repeated: &mut [u64; 3]) {
        let Some(first) = members.first() else { return };
        let stream = &self.streams[first.stream as usize];
        let mut all = Route {
            stream: first.stream,
            receiver: first.receiver,
            granted: first.granted,
            ordered: false,
            from: members.iter().map(|route| route.from).min().unwrap_or(0),
            delivered: Intervals::default(),
            duplicated: 0,
            reordered: 0,
            unrecorded: 0,
            excused: None,
        };
        let mut unbroken = Intervals::default();
        let (mut twice, mut twice_unbroken, mut same) = (0, 0, 0);
        for route in members {
            let spans = route.delivered.spans();
            twice += count(&intersection(&all.delivered.spans(), &spans));
            all.delivered.extend(&spans);
            if !self.cut_off.contains(&route.receiver) {
                twice_unbroken += count(&intersection(&unbroken.spans(), &spans));
                unbroken.extend(&spans);
            }
            same += u64::from(route.duplicated);
            bump(&mut all.unrecorded, route.unrecorded.into());
        }
        let qos = stream.qos.min(first.granted);
        let mut settled = self.settle_route(&all, &[]);
        settled.duplicated = twice + same;
        add(&mut report.qos[qos as usize], &settled);
        report.shared_twice += match qos {
            QoS::AtLeastOnce if stream.repeats => 0,
            QoS::AtLeastOnce => twice_unbroken,
            QoS::AtMostOnce | QoS::ExactlyOnce => twice,
        };
        if once(stream.qos) && once(first.granted) {
            repeated[qos as usize] += same;
        }
    }

    fn settle_route(&self, route: &Route, away: &[Span]) -> Tally {
        let stream = &self.streams[route.stream as usize];
        let window = (route.from, stream.published.max(route.from));
        let mut owed = vec![window];
        let delivered = route.delivered.spans();
        if route.excused.is_some() || !away.is_empty() {
            let excused = route.excused.as_ref().map(|spans| spans.spans()).unwrap_or_default();
            // What came all the same was expected.
            owed = difference(&owed, &difference(&union(&excused, away), &delivered));
        }
        let missing = difference(&owed, &delivered);
        let promised = match stream.qos.min(route.granted) {
            // Nothing is promised, so everything that is missing is reported.
            QoS::AtMostOnce => missing.clone(),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                intersection(&missing, &stream.acknowledged.spans())
            }
        };
        // Unrecorded deliveries did come: they are owed no more.
        let lost = count(&promised).saturating_sub(route.unrecorded.into());
        let known = intersection(&delivered, &[(0, stream.published)]);
        Tally {
            published: 0,
            acknowledged: 0,
            expected: count(&owed),
            delivered: count(&known) + u64::from(route.unrecorded),
            duplicated: route.duplicated.into(),
            reordered: route.reordered.into(),
            lost,
            unacknowledged: count(&missing) - count(&promised),
            invented: count(&delivered) - count(&known),
            unrecorded: route.unrecorded.into(),
        }
    }

    /// The account in a form that travels between workers.
    pub fn part(&self) -> LedgerPart {
        let streams = self.streams.iter().map(|stream| StreamPart {
            publisher: stream.publisher,
            qos: stream.qos as u8,
            published: stream.published,
            acknowledged: stream.acknowledged.spans(),
            unrecorded: stream.unrecorded,
            repeats: stream.repeats,
            marks: stream.marks.noted.clone(),
        });
        let routes = self.routes.iter().map(|route| RoutePart {
            receiver: route.receiver,
            stream: route.stream,
            granted: route.granted as u8,
            ordered: route.ordered,
            from: route.from,
            delivered: route.delivered.spans(),
            duplicated: route.duplicated,
            reordered: route.reordered,
            unrecorded: route.unrecorded,
            excused: route.excused.as_ref().map(|spans| spans.spans()).unwrap_or_default(),
        });
        LedgerPart {
            run: self.run,
            streams: streams.collect(),
            routes: routes.collect(),
            absences: self.absences.iter().map(|a| (a.route, a.from, a.until_ns)).collect(),
            forgotten: self.forgotten,
            groups: self.groups.iter().map(|(member, group)| (*member, *group)).collect(),
            cut_off: self.cut_off.iter().copied().collect(),
            takeovers: self.takeovers,
            retained: self.retained,
            damaged: self.damaged,
            misrouted: self.misrouted,
            foreign: self.foreign,
        }
    }

    /// Takes another worker's account into this one.
    ///
    /// A message that reached the same receiver in two workers (a shared
    /// subscription spread over them) was delivered twice. Costs as many
    /// intervals as the parts hold together, past the limit if need be.
    pub fn absorb(&mut self, part: &LedgerPart) -> Result<(), MergeError> {
        if part.run != self.run {
            return Err(MergeError::OtherRun { ours: self.run, theirs: part.run });
        }
        let mut streams = Vec::with_capacity(part.streams.len());
        for stream in &part.streams {
            let qos = qos_of(stream.qos)?;
            check_spans(&stream.acknowledged)?;
            let id = self.stream_of(stream.publisher, qos).0;
            let ours = &mut self.streams[id as usize];
            ours.published = ours.published.max(stream.published);
            ours.acknowledged.extend(&stream.acknowledged);
            ours.unrecorded += stream.unrecorded;
            ours.repeats |= stream.repeats;
            if !stream.marks.is_empty() {
                // A publisher belongs to one worker.
                ours.marks.noted = stream.marks.clone();
            }
            streams.push(id);
        }
        let mut routes = Vec::with_capacity(part.routes.len());
        for route in &part.routes {
            check_spans(&route.delivered)?;
            check_spans(&route.excused)?;
            let stream = *streams
                .get(route.stream as usize)
                .ok_or(MergeError::NoSuchStream { stream: route.stream })?;
            let stream = &self.streams[stream as usize];
            let id = self.expect(&Expectation {
                receiver: route.receiver,
                publisher: stream.publisher,
                published: stream.qos,
                granted: qos_of(route.granted)?,
                ordered: route.ordered,
                from: route.from,
            });
            routes.push(id.0);
            let ours = &mut self.routes[id.0 as usize];
            let twice = intersection(&ours.delivered.spans(), &route.delivered);
            ours.from = ours.from.min(route.from);
            ours.delivered.extend(&route.delivered);
            bump(&mut ours.duplicated, count(&twice).saturating_add(route.duplicated.into()));
            bump(&mut ours.reordered, route.reordered.into());
            bump(&mut ours.unrecorded, route.unrecorded.into());
            if !route.excused.is_empty() {
                ours.excused.get_or_insert_default().extend(&route.excused);
            }
        }
        for (route, from, until_ns) in &part.absences {
            let route =
                *routes.get(*route as usize).ok_or(MergeError::NoSuchRoute { route: *route })?;
            self.absences.push(Absence { route, from: *from, until_ns: *until_ns });
        }
        self.forgotten += part.forgotten;
        self.groups.extend(part.groups.iter().copied());
        self.cut_off.extend(part.cut_off.iter().copied());
        self.takeovers.add(&part.takeovers);
        self.retained.add(&part.retained);
        self.damaged += part.damaged;
        self.misrouted += part.misrouted;
        self.foreign += part.foreign;
        self.intervals = self.count_intervals();
        Ok(())
    }

    fn count_intervals(&self) -> usize {
        let acknowledged = self.streams.iter().map(|stream| stream.acknowledged.len());
        let delivered = self.routes.iter().map(|route| {
            route.delivered.len() + route.excused.as_ref().map_or(0, |spans| spans.len())
        });
        acknowledged.sum::<usize>() + delivered.sum::<usize>()
    }
}

/// A part that cannot be taken in: another run's, or no part of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MergeError {
    /// Its worker took part in another run.
    #[error("account of run {theirs:#x}, this is run {ours:#x}")]
    OtherRun {
        /// This ledger's run.
        ours: u32,
        /// The part's run.
        theirs: u32,
    },
    /// A route of a stream that the part doesn't have.
    #[error("account refers to stream {stream}, which it lacks")]
    NoSuchStream {
        /// The stream's place.
        stream: u32,
    },
    /// An absence on a route that the part doesn't have.
    #[error("account refers to route {route}, which it lacks")]
    NoSuchRoute {
        /// The route's place.
        route: u32,
    },
    /// A QoS that doesn't exist.
    #[error("account names QoS {got}")]
    BadQos {
        /// The number found.
        got: u8,
    },
    /// Intervals that end before they begin, or overlap.
    #[error("account has intervals out of order")]
    BadIntervals,
}

fn qos_of(got: u8) -> Result<QoS, MergeError> {
    QoS::try_from(got).map_err(|got| MergeError::BadQos { got })
}

fn check_spans(spans: &[Span]) -> Result<(), MergeError> {
    let apart = spans.windows(2).all(|pair| pair[0].1 < pair[1].0);
    let sound = spans.iter().all(|span| span.0 < span.1);
    if apart && sound { Ok(()) } else { Err(MergeError::BadIntervals) }
}

/// Whether this QoS, on one leg, repeats nothing.
fn once(qos: QoS) -> bool {
    match qos {
        QoS::AtMostOnce | QoS::ExactlyOnce => true,
        QoS::AtLeastOnce => false,
    }
}

fn bump(count: &mut u32, by: u64) {
    *count = count.saturating_add(u32::try_from(by).unwrap_or(u32::MAX));
}

fn add(sum: &mut Tally, one: &Tally) {
    sum.expected += one.expected;
    sum.delivered += one.delivered;
    sum.duplicated += one.duplicated;
    sum.reordered += one.reordered;
    sum.lost += one.lost;
    sum.unacknowledged += one.unacknowledged;
    sum.invented += one.invented;
    sum.unrecorded += one.unrecorded;
}

fn verdict(report: &LedgerReport, repeated: [u64; 3], reordered: [u64; 3]) -> Verdict {
    let mut breaches = Vec::new();
    let mut check = |promise, qos, count| {
        if count > 0 {
            breaches.push(Breach { promise, qos, count });
        }
    };
    for (at, tally) in report.qos.iter().enumerate() {
        let qos = Some(at as u8);
        // [MQTT-4.3.2-1] [MQTT-4.3.3-1]: QoS 0 may lose.
        check(Promise::Delivery, qos, if at == 0 { 0 } else { tally.lost });
        check(Promise::Once, qos, repeated[at]);
        // [MQTT-4.6.0-6]
        check(Promise::Order, qos, reordered[at]);
        check(Promise::Authenticity, qos, tally.invented);
    }
    // [MQTT-3.1.2-4] [MQTT5 3.1.2.11.2]
    check(Promise::Session, None, report.forgotten);
    check(Promise::Sharing, None, report.shared_twice);
    // [MQTT-3.1.4-3]
    check(Promise::Takeover, None, report.takeovers.lived_on + report.takeovers.untold);
    check(Promise::Retained, None, report.retained.wrong());
    check(Promise::Integrity, None, report.damaged);
    check(Promise::Routing, None, report.misrouted);
    let unrecorded = report.qos.iter().map(|tally| tally.unrecorded).sum();
    let messages = report.qos.iter().map(|tally| tally.expected + tally.delivered);
    let looks = report.retained.looks + report.retained.empty_looks;
    let seen = messages.sum::<u64>() + looks;
    if !breaches.is_empty() {
        Verdict::Bad(breaches)
    } else if unrecorded > 0 {
        Verdict::Inconclusive { unrecorded }
    } else if seen == 0 {
        Verdict::Unjudged
    } else {
        Verdict::Good
    }
}

mod marks;
mod part;
pub mod registers;
#[cfg(test)]
mod tests;
