//! The supervisor: a small process beside each instance that keeps it running while `ployzd` is away.
//!
//! It has one thread, no timers but the pause before a restart and the grace of a stop, and sleeps in `poll` otherwise. It exists as long
//! as its instance is to run: it ends when the instance was stopped or ended for good, and a new one is started with it.
//!
//! How the adapter and the supervisor talk: the adapter writes what is wanted to a file and pokes the supervisor through a pipe; the
//! supervisor writes what is to another file, and its own end is the sign that a stop is complete. Both files are replaced atomically and
//! synced, so that each may be killed at any instant.
//!
//! No instance is started that nobody knows about: the process that will become the workload is started first as a *gate*, this
//! program again, which waits for one byte. Its identity is written down, then the byte is sent and it becomes the workload. If the
//! supervisor is killed in between, the gate reads the end of its input and ends.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto_core::runtime::{InstanceSpec, RestartPolicy};
use proto_core::time::UnixTime;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::{Signal, kill_process_group};

use super::ProcessIdentity;
use super::environment::{self, User};
use super::identity::{handle, pid, terminate_blocking, timespec};
use super::logs::LogWriter;
use super::place::{Phase, Place, State};
use crate::runtime::OutputStream;

/// The first pause before a restart; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A workload that ran as long as this was well: pauses begin anew.
const WELL: Duration = Duration::from_secs(10);
/// The exit code of a workload whose end was not seen by a parent, and so counts as a failure of unknown kind.
pub(super) const UNSEEN: i32 = 255;

/// What the supervisor says to the adapter that started it, one line on its standard output.
pub(super) const STARTED: &str = "started";
pub(super) const CANNOT_RUN: &str = "cannot-run ";

/// The role of the program that the adapter starts as [`super::Supervisor`]: call it with the arguments that follow the configured ones,
/// before anything else is set up (no runtime, no threads, no output).
#[must_use]
pub fn supervise(arguments: &[OsString]) -> ExitCode {
    let result = match arguments {
        [role, directory] if role == "run" || role == "resume" => {
            run(Place::new(directory), role == "resume")
        }
        [role, user, argv @ ..] if role == "gate" => gate(&user.to_string_lossy(), argv),
        _ => Err(io::Error::other("started by ployzd only: run DIRECTORY | resume DIRECTORY")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(place: Place, resume: bool) -> io::Result<()> {
    let spec = place.spec()?.ok_or_else(|| io::Error::other("no spec.json"))?;
    let mut supervisor = Supervisor {
        poke: pipe(&place, "poke", true)?,
        outputs: [pipe(&place, "stdout", true)?, pipe(&place, "stderr", true)?],
        log: LogWriter::open(&place)?,
        own: ProcessIdentity::own()?,
        pause: FIRST_PAUSE,
        restarts: 0,
        started_at: None,
        last_exit: None,
        // It may have changed before a poke could be heard.
        poked: true,
        spec,
        place,
    };
    let earlier = supervisor.place.state()?.filter(|_| resume);
    let mut now = match earlier {
        Some(state) => supervisor.resume(state)?,
        None => match supervisor.start()? {
            Ok(running) => Now::Running(running),
            Err(why) => {
                say(&format!("{CANNOT_RUN}{why}"));
                return supervisor.record(Phase::Exited(127), None);
            }
        },
    };
    say(STARTED);
    // The adapter lent the right to change this instance by standard input; the change is made.
    flock(io::stdin().as_fd(), FlockOperation::Unlock)?;
    while let Some(next) = supervisor.step(now)? {
        now = next;
    }
    Ok(())
}

fn say(line: &str) {
    // The adapter may be dead by now, and then nobody waits for this.
    let mut stdout = io::stdout();
    drop(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
}

struct Supervisor {
    place: Place,
    spec: InstanceSpec,
    own: ProcessIdentity,
    poke: File,
    outputs: [File; 2],
    log: LogWriter,
    pause: Duration,
    restarts: u32,
    started_at: Option<UnixTime>,
    /// How it last ended, if it was started again since or will be.
    last_exit: Option<i32>,
    /// What is wanted may have changed.
    poked: bool,
}

enum Now {
    Running(Running),
    Pausing { until: Instant },
}

struct Running {
    identity: ProcessIdentity,
    process: OwnedFd,
    /// `None` if an earlier supervisor was its parent.
    child: Option<Child>,
    since: Instant,
    stopping: bool,
    /// When SIGKILL follows SIGTERM.
    kill_at: Option<Instant>,
}

impl Supervisor {
    /// Takes over from a supervisor that died.
    fn resume(&mut self, state: State) -> io::Result<Now> {
        self.restarts = state.restarts;
        self.started_at = state.started_at;
        self.last_exit = state.last_exit;
        let Some(identity) = state.workload else {
            return Ok(Now::Pausing { until: Instant::now() });
        };
        let Some(process) = handle(&identity)? else {
            self.last_exit = Some(UNSEEN);
            return Ok(self.pausing());
        };
        self.record(Phase::Running, Some(&identity))?;
        let since = Instant::now();
        let (stopping, kill_at) = (false, None);
        Ok(Now::Running(Running { identity, process, child: None, since, stopping, kill_at }))
    }

    /// Waits for one thing to happen and deals with it. `None`: the instance has ended for good.
    fn step(&mut self, now: Now) -> io::Result<Option<Now>> {
        let now = if std::mem::take(&mut self.poked) {
            match self.obey(now)? {
                Some(now) => now,
                None => return Ok(None),
            }
        } else {
            now
        };
        let (process, deadline) = match &now {
            Now::Running(running) => (Some(&running.process), running.kill_at),
            Now::Pausing { until } => (None, Some(*until)),
        };
        let mut fds = vec![
            PollFd::new(&self.poke, PollFlags::IN),
            PollFd::new(&self.outputs[0], PollFlags::IN),
            PollFd::new(&self.outputs[1], PollFlags::IN),
        ];
        fds.extend(process.map(|process| PollFd::new(process, PollFlags::IN)));
        let left =
            deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[0] {
            drain(&mut self.poke, |_| {})?;
            self.poked = true;
        }
        if ready[1] || ready[2] {
            self.collect()?;
        }
        let due = deadline.is_some_and(|deadline| deadline <= Instant::now());
        match now {
            Now::Running(running) if ready[3] => self.ended(running),
            Now::Running(mut running) if due => {
                running.kill_at = None;
                signal(&running.identity, Signal::KILL)?;
                Ok(Some(Now::Running(running)))
            }
            Now::Pausing { .. } if due => {
                self.restarts = self.restarts.saturating_add(1);
                match self.start()? {
                    Ok(running) => Ok(Some(Now::Running(running))),
                    Err(why) => {
                        write(&mut self.log, OutputStream::Stderr, format!("{why}\n").as_bytes());
                        Ok(self.after(127, Duration::ZERO))
                    }
                }
            }
            now => Ok(Some(now)),
        }
    }

    /// Does what is wanted by now.
    fn obey(&mut self, now: Now) -> io::Result<Option<Now>> {
        let wanted = self.place.wanted()?;
        if wanted.run {
            return Ok(Some(now));
        }
        match now {
            Now::Pausing { .. } => {
                self.note(Phase::Exited(self.last_exit.unwrap_or(UNSEEN)));
                Ok(None)
            }
            Now::Running(mut running) => {
                let grace = Duration::from_millis(wanted.grace_millis);
                if !running.stopping {
                    running.stopping = true;
                    running.kill_at = Some(Instant::now() + grace);
                    signal(&running.identity, Signal::TERM)?;
                } else if let Some(kill_at) = running.kill_at {
                    // A later stop with less patience.
                    running.kill_at = Some(kill_at.min(Instant::now() + grace));
                }
                Ok(Some(Now::Running(running)))
            }
        }
    }

    /// The workload's first process has ended.
    fn ended(&mut self, mut running: Running) -> io::Result<Option<Now>> {
        // What it left running goes too. A child that was not waited for keeps its pid, and so its group's id, from being reused; one
        // that was another's child may have been waited for, so its group is spared if a new process has the pid.
        let reused = running.child.is_none()
            && ProcessIdentity::of(running.identity.pid)?
                .is_some_and(|other| other != running.identity);
        if !reused {
            signal(&running.identity, Signal::KILL)?;
        }
        let code = match &mut running.child {
            Some(child) => {
                let status = child.wait()?;
                status
                    .code()
                    .or_else(|| status.signal().map(|signal| 128 + signal))
                    .unwrap_or(UNSEEN)
            }
            None => UNSEEN,
        };
        self.collect()?;
        if let Err(error) = self.log.finish() {
            complain(&error);
        }
        if running.stopping {
            self.note(Phase::Exited(code));
            return Ok(None);
        }
        Ok(self.after(code, running.since.elapsed()))
    }

    /// What the restart policy says to an end by itself.
    fn after(&mut self, code: i32, uptime: Duration) -> Option<Now> {
        let again = match self.spec.workload.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::No => false,
        };
        if !again {
            self.note(Phase::Exited(code));
            return None;
        }
        self.last_exit = Some(code);
        if uptime >= WELL {
            self.pause = FIRST_PAUSE;
        }
        self.note(Phase::Restarting);
        Some(self.pausing())
    }

    fn pausing(&mut self) -> Now {
        let until = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Now::Pausing { until }
    }

    /// Starts the workload; the inner error says why its command cannot be run.
    fn start(&mut self) -> io::Result<Result<Running, String>> {
        let argv = environment::argv(&self.spec);
        let (mut control, gate) = UnixStream::pair()?;
        // By this link also a program that was replaced on disk since is found.
        let mut command = Command::new("/proc/self/exe");
        // The program is called as it was for this supervisor, so that it finds its way to this role again.
        let own: Vec<_> = std::env::args_os().skip(1).collect();
        let prefix = own.len().saturating_sub(2);
        command
            .args(&own[..prefix])
            .arg("gate")
            .arg(self.spec.workload.user.as_deref().unwrap_or_default())
            .args(argv)
            .env_clear()
            .envs(environment::variables(&self.spec))
            .current_dir(self.place.at("data"))
            .stdin(OwnedFd::from(gate))
            .stdout(pipe(&self.place, "stdout", false)?)
            .stderr(pipe(&self.place, "stderr", false)?);
        let mut child = command.spawn()?;
        // The command holds the gate's end of the pair, whose closing is to be seen.
        drop(command);
        let identity = ProcessIdentity::of(child.id())?;
        let process = identity.as_ref().map(handle).transpose()?.flatten();
        let (Some(identity), Some(process)) = (identity, process) else {
            child.wait()?;
            return Err(io::Error::other("the gate ended before it was asked to open"));
        };
        self.started_at = Some(now());
        if let Err(error) = self.record(Phase::Running, Some(&identity)) {
            // Nobody would know about it, so it does not run: the gate reads the end of its input.
            drop(control);
            child.wait()?;
            return Ok(Err(format!("its identity cannot be written down: {error}")));
        }
        let mut why = String::new();
        control.write_all(b".")?;
        control.read_to_string(&mut why)?;
        if !why.is_empty() {
            child.wait()?;
            return Ok(Err(why));
        }
        Ok(Ok(Running {
            identity,
            process,
            child: Some(child),
            since: Instant::now(),
            stopping: false,
            kill_at: None,
        }))
    }

    /// Moves what the workload wrote to the log.
    fn collect(&mut self) -> io::Result<()> {
        for (index, stream) in [OutputStream::Stdout, OutputStream::Stderr].into_iter().enumerate()
        {
            let Self { outputs, log, .. } = self;
            drain(&mut outputs[index], |bytes| write(log, stream, bytes))?;
        }
        Ok(())
    }

    /// Records a phase without a workload. On a full disk the supervision goes on; the adapter then sees, by the identities, that nothing runs.
    fn note(&self, phase: Phase) {
        if let Err(error) = self.record(phase, None) {
            complain(&error);
        }
    }

    fn record(&self, phase: Phase, workload: Option<&ProcessIdentity>) -> io::Result<()> {
        self.place.set_state(&State {
            supervisor: self.own.clone(),
            phase,
            workload: workload.cloned(),
            started_at: self.started_at,
            restarts: self.restarts,
            last_exit: self.last_exit,
        })
    }
}

/// Adds to the log. Lines that cannot be written (a full disk) are lost: the workload is not to wait for them.
fn write(log: &mut LogWriter, stream: OutputStream, bytes: &[u8]) {
    if let Err(error) = log.take(stream, bytes) {
        complain(&error);
    }
}

/// Writes to the instance's supervisor.log; if that can't be written either, nobody is left to tell.
fn complain(error: &io::Error) {
    drop(writeln!(io::stderr(), "{error}"));
}

/// Opens a named pipe for both directions: a reader that dies breaks no writer, and a supervisor that comes back reads on.
fn pipe(place: &Place, name: &str, nonblocking: bool) -> io::Result<File> {
    let flags = if nonblocking { OFlags::NONBLOCK } else { OFlags::empty() };
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(place.at(name))
}

/// Reads all that is in a pipe now, but no more than one full pipe: a writer that never rests must not keep anything else waiting.
fn drain(pipe: &mut File, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    for _ in 0..4 {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends a signal to the process group that a workload leads.
fn signal(identity: &ProcessIdentity, signal: Signal) -> io::Result<()> {
    match pid(identity).map(|group| kill_process_group(group, signal)) {
        None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(error)) => Err(error.into()),
    }
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Waits for the word and becomes the workload. Whatever prevents that is written back.
fn gate(user: &str, argv: &[OsString]) -> io::Result<()> {
    rustix::process::setsid()?;
    // A second descriptor, closed by the exec: its closing is the sign of success.
    let mut control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if control.read(&mut [0])? == 0 {
        return Ok(());
    }
    let why = match become_workload(user, argv) {
        Ok(never) => match never {},
        Err(why) => why,
    };
    control.write_all(why.as_bytes())
}

fn become_workload(user: &str, argv: &[OsString]) -> Result<std::convert::Infallible, String> {
    let (program, arguments) = argv.split_first().ok_or("there is no command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    if let Some(User { uid, gid }) = environment::user(user)? {
        command.uid(uid).gid(gid);
    }
    Err(format!("{}: {}", program.display(), command.exec()))
}

/// Ends an instance whose supervisor is gone.
pub(super) fn end_unsupervised(place: &Place, grace: Duration) -> io::Result<()> {
    let Some(mut state) = place.state()? else { return Ok(()) };
    if let Some(workload) = state.workload.take() {
        terminate_blocking(&workload, grace)?;
        state.phase = Phase::Exited(UNSEEN);
        place.set_state(&state)?;
    }
    Ok(())
}
