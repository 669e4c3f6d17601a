//! The command line: `tidegate run | check`; later commands are `NOUN VERB`.
//!
//! Results go to stdout, talk to stderr. Exit 0: fine; 1: failed; 2: misused.

mod cluster;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tidegate_auth::acl::Action;
use tidegate_core::limits::SHARDS_MAX;

use self::cluster::{ClusterCommand, NodeCommand, cluster, members};
use crate::admin::control;
use crate::auth::commands::{self as auth, Checked};
use crate::commands;
use crate::config::reload::Source;
use crate::config::{self, Config, Flags, Overlay, Reload, reference};
use crate::import;
use crate::pages;
use crate::store;
use crate::system::report;
use crate::telemetry::{log, metric};

/// Runs a node until it is told to stop.
pub type Runner = fn(Config, Reload) -> anyhow::Result<()>;

#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about = "An MQTT broker node", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or SIGINT
    Run(RunArgs),
    /// Tell everything that is wrong with a config, or what it means
    Check {
        /// The config
        file: PathBuf,
    },
    /// Certificates: show, check, reload
    #[command(subcommand)]
    Tls(Tls),
    /// Users: add, delete, verify
    #[command(subcommand)]
    Passwd(Passwd),
    /// Access rules: check
    #[command(subcommand)]
    Acl(AclCommand),
    /// Turn another broker's config into one of ours
    #[command(subcommand)]
    Import(Import),
    /// The config of a running node
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Shards: show, weight
    #[command(subcommand)]
    Shard(ShardCommand),
    /// eBPF programs: status
    #[command(subcommand)]
    Bpf(BpfCommand),
    /// Tell whether this machine is fit for a config: exit 0 or 1
    Preflight {
        /// The config; without it the defaults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// TCP sockets: show
    #[command(subcommand)]
    Sockstat(SockstatCommand),
    /// The kernel's connection tracking: show
    #[command(subcommand)]
    Conntrack(ConntrackCommand),
    /// What a node keeps: check, show
    #[command(subcommand)]
    Store(StoreCommand),
    /// Backups of what a node keeps: create, restore, verify
    #[command(subcommand)]
    Backup(BackupCommand),
    /// The cluster of a running node: show, init, join, leave, forget, rebalance, recover
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Nodes of the cluster: show, drain, undrain
    #[command(subcommand)]
    Node(NodeCommand),
    /// Partitions of the cluster: show
    #[command(subcommand)]
    Partition(PartitionCommand),
    /// Replicas of partitions on a node of the cluster: show
    #[command(subcommand)]
    Replication(ReplicationCommand),
    /// Routes of a node: show
    #[command(subcommand)]
    Route(RouteCommand),
    /// Print completions for a shell
    Completion {
        /// Which
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one a command
    Man {
        /// Where to write them
        dir: Option<PathBuf>,
    },
    /// Print a generated page of the documentation
    #[command(hide = true)]
    Docs {
        /// Which
        page: Page,
    },
}

#[derive(Debug, Subcommand)]
enum Tls {
    /// Show what a running node presents, or with --config what the files hold
    Show {
        #[command(flatten)]
        node: NodeArgs,
        /// Read the files of this config instead of asking a node
        #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "data_dir"])]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell everything that is wrong with the files of a config
    Check {
        /// The config
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Have a running node read its files again
    Reload {
        #[command(flatten)]
        node: NodeArgs,
    },
}

#[derive(Debug, Subcommand)]
enum Passwd {
    /// Set a user's password, asked for or from the first line of stdin
    Add {
        /// The password file; made if it is not there
        file: PathBuf,
        /// The user
        user: String,
    },
    /// Remove a user
    Delete {
        /// The password file
        file: PathBuf,
        /// The user
        user: String,
    },
    /// Tell whether a password, asked for or from stdin, is the user's: exit 0 or 1
    Verify {
        /// The password file
        file: PathBuf,
        /// The user
        user: String,
    },
}

#[derive(Debug, Subcommand)]
enum AclCommand {
    /// Tell whether the rules allow a request, and which of them: exit 0 or 1
    Check {
        /// The file of rules
        file: PathBuf,
        /// The client id
        #[arg(long, value_name = "ID")]
        client: String,
        /// The user name; without it the client is anonymous
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// What it wants to do
        action: AclAction,
        /// The topic, or the filter
        topic: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AclAction {
    Publish,
    Subscribe,
}

#[derive(Debug, Subcommand)]
enum Import {
    /// A mosquitto.conf with its password and ACL files; tells what has no equal
    Mosquitto {
        /// The mosquitto.conf
        file: PathBuf,
        /// Where to write config, passwords, rules and report; else they are printed
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Have a running node read its config again, as SIGHUP does
    Reload {
        #[command(flatten)]
        node: NodeArgs,
    },
}

#[derive(Debug, Subcommand)]
enum ShardCommand {
    /// Show what each shard has, and its weights
    Show {
        #[command(flatten)]
        node: NodeArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Weights of shards for new connections: set
    #[command(subcommand)]
    Weight(WeightCommand),
}

#[derive(Debug, Subcommand)]
enum WeightCommand {
    /// Set a shard's weight until the next reload; 0: no new connections
    Set {
        /// The shard
        shard: u16,
        /// 0 to 100
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: u8,
        /// On this listener alone
        #[arg(long, value_name = "NAME")]
        listener: Option<String>,
        #[command(flatten)]
        node: NodeArgs,
    },
}

#[derive(Debug, Subcommand)]
enum BpfCommand {
    /// Show which programs are loaded, what they do, and why others are not
    Status {
        #[command(flatten)]
        node: NodeArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Check all that a data directory holds; its node must be down
    Check {
        /// The data directory
        #[arg(long, value_name = "DIR", default_value = "./tidegate-data")]
        data_dir: PathBuf,
    },
    /// Show what a data directory holds; its node must be down
    Show {
        /// The data directory
        #[arg(long, value_name = "DIR", default_value = "./tidegate-data")]
        data_dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Have a running node write a backup
    Create {
        /// Where to; a directory that is empty or not there
        to: PathBuf,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Put a backup into an empty data directory
    Restore {
        /// The backup
        from: PathBuf,
        /// The data directory
        #[arg(long, value_name = "DIR", default_value = "./tidegate-data")]
        data_dir: PathBuf,
    },
    /// Check every byte of a backup
    Verify {
        /// The backup
        from: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum SockstatCommand {
    /// Show the sockets of our ports by state, accept queues, and the node's TCP
    Show {
        /// The config that names the ports; without it the defaults
        #[arg(long, value_name = "FILE", conflicts_with = "port")]
        config: Option<PathBuf>,
        /// These ports instead
        #[arg(long, value_name = "N", num_args = 1.., value_parser = clap::value_parser!(u16).range(1..))]
        port: Vec<u16>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum ConntrackCommand {
    /// Show entries, limit and operations of this network namespace
    Show {
        /// Tell also how full it would be with so many connections more
        #[arg(long, value_name = "N")]
        connections: Option<u64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum PartitionCommand {
    /// Show which nodes hold which partition
    Show {
        #[command(flatten)]
        node: NodeArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum ReplicationCommand {
    /// Show the replicas that a running node has, who leads them and who is behind
    Show {
        #[command(flatten)]
        node: NodeArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// Show where a message with a topic goes from a running node
    Show {
        /// The topic, without wildcards
        topic: String,
        #[command(flatten)]
        node: NodeArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which running node.
#[derive(Args, Debug)]
struct NodeArgs {
    /// Its data directory
    #[arg(long, value_name = "DIR", default_value = "./tidegate-data")]
    data_dir: PathBuf,
    /// Its control socket, DIR/tidegate.sock if not given
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl NodeArgs {
    fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| control::socket_in(&self.data_dir))
    }

    fn ask(&self, method: &str, target: &str) -> anyhow::Result<String> {
        control::ask(&self.socket(), method, target)
    }

    /// What may take an hour.
    fn ask_long(&self, method: &str, target: &str) -> anyhow::Result<String> {
        control::ask_within(&self.socket(), method, target, Duration::from_secs(3_600))
    }
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Config in TOML; without it the defaults run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where MQTT clients connect (listener.default.bind)
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where metrics and health are served (admin.bind)
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Where the node keeps its files (node.data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Shards, one thread each (node.shards)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64))]
    shards: Option<u16>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Page {
    Config,
    Metrics,
}

/// The whole program but for the node itself, which is `run`.
pub fn main(run: Runner) -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run_node(args, run),
        Command::Check { file } => check(&file),
        Command::Tls(command) => tls(command),
        Command::Import(Import::Mosquitto { file, out }) => {
            import::mosquitto(&file, out.as_deref()).map(|said| print(&said))
        }
        Command::Passwd(command) => match passwd(command) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Acl(command) => match acl(command) {
            Ok(Checked::Allowed(said)) => {
                print(&said);
                Ok(())
            }
            Ok(Checked::Denied(said)) => {
                print(&said);
                return ExitCode::FAILURE;
            }
            Ok(Checked::Misused(why)) => {
                complain(&why);
                return ExitCode::from(2);
            }
            Err(error) => Err(error),
        },
        Command::Config(ConfigCommand::Reload { node }) => {
            node.ask("POST", "/reload").map(|said| print(&said))
        }
        Command::Shard(command) => shard(command).map(|said| print(&said)),
        Command::Bpf(BpfCommand::Status { node, json }) => {
            node.ask("GET", &format!("/bpf?json={json}")).map(|said| print(&said))
        }
        Command::Preflight { config, json } => match load_or_default(config.as_deref()) {
            Ok(config) => {
                let (said, fit) = report::preflight(&config, json);
                print(&said);
                if !fit {
                    return ExitCode::FAILURE;
                }
                Ok(())
            }
            Err(error) => Err(error),
        },
        Command::Sockstat(SockstatCommand::Show { config, port, json }) => {
            sockstat(config.as_deref(), port, json).map(|said| print(&said))
        }
        Command::Conntrack(ConntrackCommand::Show { connections, json }) => {
            report::conntrack(connections, json).map(|said| print(&said))
        }
        Command::Store(StoreCommand::Check { data_dir }) => {
            commands::store::check(&data_dir).map(|said| print(&said))
        }
        Command::Store(StoreCommand::Show { data_dir, json }) => {
            commands::store::show(&data_dir, json).map(|said| print(&said))
        }
        Command::Backup(command) => backup(command).map(|said| print(&said)),
        Command::Cluster(command) => cluster(command).map(|said| print(&said)),
        Command::Node(command) => members(command).map(|said| print(&said)),
        Command::Replication(ReplicationCommand::Show { node, json }) => {
            node.ask("GET", &format!("/replicas?json={json}")).map(|said| print(&said))
        }
        Command::Route(RouteCommand::Show { topic, node, json }) => {
            let topic = percent(topic.as_bytes());
            let target = format!("/routes?topic={topic}&json={json}");
            node.ask("GET", &target).map(|said| print(&said))
        }
        Command::Partition(PartitionCommand::Show { node, json }) => {
            node.ask("GET", &format!("/partitions?json={json}")).map(|said| print(&said))
        }
        Command::Completion { shell } => {
            print(&pages::completion(Cli::command(), shell));
            Ok(())
        }
        Command::Man { dir: Some(dir) } => pages::write_manuals(Cli::command(), &dir),
        Command::Man { dir: None } => {
            pages::manual(Cli::command()).map(|page| print(&page)).context("cannot make the page")
        }
        Command::Docs { page } => {
            print(&match page {
                Page::Config => reference::markdown(),
                Page::Metrics => metric::markdown(),
            });
            Ok(())
        }
    };
    let status = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let said = format!("{error:#}");
            // Where all lines are to be JSON, the last one is as well.
            if log::is_json() {
                tracing::error!(error = said, "cannot run");
            } else {
                complain(&said);
            }
            let of_disk = store::exit_status(&error).and_then(|status| u8::try_from(status).ok());
            of_disk.map_or(ExitCode::FAILURE, ExitCode::from)
        }
    };
    log::flush();
    status
}

fn run_node(args: RunArgs, run: Runner) -> anyhow::Result<()> {
    let flags = Flags {
        listen: args.listen,
        admin: args.admin,
        data_dir: args.data_dir,
        shards: args.shards,
    };
    let overlay = Overlay::from_environment().with_flags(flags);
    let source = Source { path: args.config, overlay };
    let (file, config) = source.read()?;
    config.log.start()?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    run(config, Reload::new(source, file))
}

fn shard(command: ShardCommand) -> anyhow::Result<String> {
    match command {
        ShardCommand::Show { node, json } => node.ask("GET", &format!("/shards?json={json}")),
        ShardCommand::Weight(WeightCommand::Set { shard, weight, listener, node }) => {
            let mut target = format!("/shards/weight?shard={shard}&weight={weight}");
            if let Some(listener) = listener {
                // The names of listeners need no escapes; another is none's.
                anyhow::ensure!(
                    listener.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
                    "--listener {listener:?}: names are lower-case letters, digits and '_'"
                );
                target += &format!("&listener={listener}");
            }
            node.ask("POST", &target)
        }
    }
}

fn backup(command: BackupCommand) -> anyhow::Result<String> {
    match command {
        BackupCommand::Create { to, node } => {
            let to = std::path::absolute(&to).with_context(|| to.display().to_string())?;
            let to = percent(to.as_os_str().as_encoded_bytes());
            node.ask_long("POST", &format!("/backup?to={to}"))
        }
        BackupCommand::Restore { from, data_dir } => commands::backup::restore(&from, &data_dir),
        BackupCommand::Verify { from } => commands::backup::verify(&from),
    }
}

/// Text as a value of a query.
fn percent(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let one = |&byte: &u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    bytes.iter().map(one).collect()
}

/// Whether it is as asked.
fn passwd(command: Passwd) -> anyhow::Result<bool> {
    match command {
        Passwd::Add { file, user } => print(&auth::passwd_add(&file, &user)?),
        Passwd::Delete { file, user } => print(&auth::passwd_delete(&file, &user)?),
        Passwd::Verify { file, user } => {
            let right = auth::passwd_verify(&file, &user)?;
            print(if right { "right\n" } else { "wrong\n" });
            return Ok(right);
        }
    }
    Ok(true)
}

fn acl(command: AclCommand) -> anyhow::Result<Checked> {
    let AclCommand::Check { file, client, user, action, topic } = command;
    let action = match action {
        AclAction::Publish => Action::Publish,
        AclAction::Subscribe => Action::Subscribe,
    };
    auth::acl_check(&file, &client, user.as_deref(), action, &topic)
}

fn sockstat(config: Option<&Path>, ports: Vec<u16>, json: bool) -> anyhow::Result<String> {
    let ports = match ports.is_empty() {
        true => report::ports_of(&load_or_default(config)?)?,
        false => ports,
    };
    report::sockstat(&ports, json)
}

fn load_or_default(path: Option<&Path>) -> anyhow::Result<Config> {
    let text = path.map(read).transpose()?.unwrap_or_default();
    Ok(config::load(&text, &Overlay::from_environment())?)
}

fn tls(command: Tls) -> anyhow::Result<()> {
    let load = |path: &Path| load_or_default(Some(path));
    let said = match command {
        Tls::Show { config: Some(config), json, .. } => {
            commands::tls::show_files(&load(&config)?, json)?
        }
        Tls::Show { node, json, .. } => node.ask("GET", &format!("/tls?json={json}"))?,
        Tls::Check { config } => {
            let said = commands::tls::show_files(&load(&config)?, false)?;
            format!("ok\n\n{said}")
        }
        Tls::Reload { node } => node.ask("POST", "/reload")?,
    };
    print(&said);
    Ok(())
}

fn check(path: &Path) -> anyhow::Result<()> {
    let (file, config) = config::read(&read(path)?, &Overlay::from_environment())?;
    crate::node::check_files(&config)?;
    for warning in &config.warnings {
        complain(&format!("warning: {warning}"));
    }
    print(&format!("ok\n\n{}", reference::effective(&file, &config)));
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))
}

/// To stdout. A reader that left early (`| head`) is not our failure.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[allow(clippy::print_stderr)]
fn complain(text: &str) {
    eprintln!("{text}");
}
