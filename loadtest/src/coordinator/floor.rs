//! The same run against the relay first: how much of a cost is the kernel's.
//!
//! The relay runs on the broker's cores and gets the same load over plain TCP,
//! without keep-alive, as it could not tell a PINGREQ among messages from one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};
use tidegate_loadtest::outcome::Outcome;

use super::broker::Brokers;
use super::{Request, Watch};
use crate::engine::Transport;
use crate::scenario::plan::{Plan, Scenario};

const START_TIME_MAX: Duration = Duration::from_secs(5);

/// Runs the load of `request` against the relay.
pub(crate) fn run(
    request: &Request,
    watch: Watch<'_>,
    stop: &'static AtomicBool,
) -> Result<Outcome> {
    let plan = &request.plan;
    ensure!(request.agents.is_empty(), "--floor: the relay runs here, where no agent reaches it");
    ensure!(
        plan.scenario != Scenario::FanIn || plan.qos == 0,
        "--floor: a relay can't tell whose a subscriber's acknowledgement is; --qos 0"
    );
    let groups = groups(plan);
    let groups = groups.with_context(|| {
        format!("--floor: no relay can do `{}`, as it parses nothing", plan.scenario.label())
    })?;
    let floor = Floor::start(groups, &Brokers::find(&request.pids, &plan.targets))?;
    let plan = Plan {
        targets: vec![floor.addr],
        sources: Vec::new(),
        transport: Transport::Tcp,
        keep_alive_s: 0,
        ..plan.clone()
    };
    let pids = vec![floor.child.id()];
    super::run(&Request { plan, pids, label: "floor".to_owned(), ..request.clone() }, watch, stop)
}

/// Enters the floor's costs beside the broker's.
pub(crate) fn enter(outcome: &mut Outcome, floor: &Outcome) {
    for cost in &mut outcome.costs {
        let same = floor.costs.iter().find(|of_floor| of_floor.event == cost.event);
        cost.floor_us_each = same.and_then(|of_floor| of_floor.us_each());
    }
    let more = &mut outcome.config.more;
    if floor.latency.quantiles.count > 0 {
        let p99 = floor.latency.quantiles.p99_ns as f64 / 1e6;
        more.insert("p99 of the floor".to_owned(), format!("{p99:.3} ms"));
    }
    if let Some(why) = &floor.invalid {
        more.insert("the floor's run is invalid".to_owned(), why.to_string());
    }
}

/// Groups of connections between which bytes go: topics, or subscribers of a fan-in. None where
/// a relay would have to understand what passes.
fn groups(plan: &Plan) -> Option<u32> {
    match plan.scenario {
        Scenario::Connect | Scenario::Storm => Some(1),
        Scenario::FanIn => Some(plan.subscribers),
        Scenario::FanOut | Scenario::Pairs => Some(plan.publishers),
        Scenario::Shared
        | Scenario::Wildcard
        | Scenario::Retained
        | Scenario::Takeover
        | Scenario::Mixed
        | Scenario::Drain
        | Scenario::Upgrade => None,
    }
}

/// The relay as a process of its own; it ends with this.
struct Floor {
    child: Child,
    addr: SocketAddr,
}

impl Floor {
    fn start(groups: u32, brokers: &Brokers) -> Result<Self> {
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.args(["floor", "--listen", &addr.to_string(), "--groups", &groups.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // A child inherits the mask of its parent.
        let own = sched_getaffinity(None)?;
        let broker = brokers.first().and_then(|pid| Pid::from_raw(pid as i32));
        if let Some(cores) = broker.and_then(|pid| sched_getaffinity(Some(pid)).ok()) {
            sched_setaffinity(None, &cores)?;
        }
        let child = command.spawn().context("start the relay");
        sched_setaffinity(None, &own)?;
        let mut floor = Self { child: child?, addr };
        let deadline = Instant::now() + START_TIME_MAX;
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = floor.child.try_wait()? {
                bail!("the relay ended at its start: {status}");
            }
            ensure!(Instant::now() < deadline, "the relay does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(floor)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use tidegate_loadtest::outcome::{Cost, Event};

    use super::*;

    #[test]
    fn a_cost_is_set_beside_the_floors_cost_of_the_same_event() {
        let cost = |event, kernel_us| Cost {
            event,
            events: 10,
            user_us: 0,
            kernel_us,
            floor_us_each: None,
        };
        let costs = vec![cost(Event::Connect, 90), cost(Event::Message, 50)];
        let floor = Outcome { costs, ..Outcome::default() };
        let costs = vec![cost(Event::Message, 75), cost(Event::Delivery, 75)];
        let mut outcome = Outcome { costs, ..Outcome::default() };
        enter(&mut outcome, &floor);
        assert_eq!(outcome.costs[0].floors(), Some(1.5));
        assert_eq!(outcome.costs[1].floors(), None);
    }
}
