//! The tests' pretended service manager behind a D-Bus socket: what the original's daemons talk to.
//!
//! Ours call it in their own process. The original knows only the bus, so this answers, as bus and as
//! systemd1, the calls that it makes; both are then measured against the same manager, which starts nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dbus_api::names;
use dbus_api::wire::{Kind, Message, PREFIX, Value};
use fleet_model::UnitName;
use fleetd::agent::{ActualState, ServiceManager as _};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::{JoinHandle, JoinSet};

use crate::pretend::Pretend;

const BUS: &str = "org.freedesktop.DBus";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PATH: &str = "/org/freedesktop/systemd1";

/// One machine's manager, until dropped.
#[derive(Debug)]
pub(crate) struct Systemd1 {
    task: JoinHandle<()>,
}

impl Drop for Systemd1 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Systemd1 {
    /// Listens at `socket`.
    pub(crate) fn start(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let task = tokio::spawn(async move {
            let shared = Arc::new(Shared::default());
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, shared.clone()));
            }
        });
        Self { task }
    }
}

#[derive(Debug, Default)]
struct Shared {
    manager: Pretend,
    jobs: Mutex<Jobs>,
}

/// Who hears of the end of jobs, and how many there were.
#[derive(Debug, Default)]
struct Jobs {
    listeners: Vec<UnboundedSender<Message>>,
    last: u32,
}

/// What a call comes to: an answer's body, or why there is none.
type Answer = Result<Vec<Value>, String>;

async fn serve(stream: UnixStream, shared: Arc<Shared>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    // The client asks for the mechanisms first, and is who the socket says.
    if read.read_u8().await? != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    loop {
        let mut line = String::new();
        if read.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = match line.trim_end() {
            "AUTH" => "REJECTED EXTERNAL\r\n",
            line if line.starts_with("AUTH EXTERNAL") => "OK 00000000000000000000000000000001\r\n",
            "BEGIN" => break,
            _ => "ERROR\r\n",
        };
        write.write_all(answer.as_bytes()).await?;
    }
    let (tx, mut rx) = mpsc::unbounded_channel::<Message>();
    let writer = async move {
        let mut serial = 0;
        while let Some(mut message) = rx.recv().await {
            serial += 1;
            message.serial = serial;
            write.write_all(&message.encode()).await?;
        }
        Ok(())
    };
    let reader = async move {
        while let Some(call) = next(&mut read).await? {
            let answer = shared.answer(&call, &tx).await;
            if call.wants_reply() {
                let _ = tx.send(match answer {
                    Ok(body) => call.reply(body),
                    Err(why) => call.refuse("org.freedesktop.DBus.Error.Failed", why),
                });
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    };
    tokio::try_join!(writer, reader).map(|((), ())| ())
}

/// The next call.
async fn next(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Message>> {
    loop {
        let mut bytes = vec![0; PREFIX];
        if read.read_exact(&mut bytes).await.is_err() {
            return Ok(None);
        }
        let length = Message::length(&bytes).map_err(io::Error::other)?;
        bytes.resize(length.unwrap(), 0);
        read.read_exact(&mut bytes[PREFIX..]).await?;
        let message = Message::parse(&bytes).map_err(io::Error::other)?;
        if message.kind == Kind::Call {
            return Ok(Some(message));
        }
    }
}

impl Shared {
    async fn answer(&self, call: &Message, from: &UnboundedSender<Message>) -> Answer {
        let changes = || Value::array("(sss)", Vec::new());
        Ok(match (&*call.interface, &*call.member) {
            (BUS, "Hello") => vec![Value::str(":1.1")],
            (BUS, "AddMatch") => {
                let mut jobs = self.jobs.lock().unwrap();
                jobs.listeners.push(from.clone());
                Vec::new()
            }
            (MANAGER, "Subscribe" | "Unsubscribe" | "ResetFailedUnit") => Vec::new(),
            (MANAGER, "Reload") => {
                self.manager.reload().await.map_err(|e| e.to_string())?;
                Vec::new()
            }
            (MANAGER, "LinkUnitFiles") => {
                let files = strings(call)?.into_iter().map(PathBuf::from).collect();
                self.manager.link(files).await.map_err(|e| e.to_string())?;
                vec![changes()]
            }
            (MANAGER, "EnableUnitFiles") => vec![Value::Bool(true), changes()],
            (MANAGER, "DisableUnitFiles") => {
                for name in strings(call)? {
                    let unlinked = self.manager.unlink(unit(&name)?).await;
                    unlinked.map_err(|e| e.to_string())?;
                }
                vec![changes()]
            }
            (MANAGER, "StartUnit" | "StopUnit") => {
                let name = call.body.first().and_then(Value::as_str);
                let name = name.ok_or("no name")?;
                let done = if call.member == "StartUnit" {
                    self.manager.start(unit(name)?).await
                } else {
                    self.manager.stop(unit(name)?).await
                };
                done.map_err(|e| e.to_string())?;
                vec![Value::path(self.job_done(name))]
            }
            (MANAGER, "ListUnitsByNames") => {
                let units: Result<Vec<_>, _> = strings(call)?.iter().map(|n| unit(n)).collect();
                let states = self.manager.states(units?).await;
                let states = states.map_err(|e| e.to_string())?;
                let rows = states.iter().map(|(name, state)| row(name, state));
                vec![Value::array("(ssssssouso)", rows.collect())]
            }
            ("org.freedesktop.DBus.Properties", "GetAll") => {
                let name = names::unit_of_path(&call.path).ok_or("no unit")?;
                let states = self.manager.states(vec![unit(&name)?]).await;
                let state = states.map_err(|e| e.to_string())?.remove(0).1;
                vec![Value::dict([
                    ("Id", Value::str(name)),
                    ("LoadState", Value::str(state.load)),
                    ("ActiveState", Value::str(state.active)),
                    ("SubState", Value::str(state.sub)),
                ])]
            }
            (_, member) => return Err(format!("{member} is not pretended")),
        })
    }

    /// Tells those who listen of a job that is over already: its path.
    fn job_done(&self, name: &str) -> String {
        let mut jobs = self.jobs.lock().unwrap();
        jobs.last += 1;
        let (id, path) = (jobs.last, names::job_path(jobs.last));
        let body = vec![
            Value::U32(id),
            Value::path(&*path),
            Value::str(name),
            Value::str("done"),
        ];
        let signal = Message::signal(PATH, MANAGER, "JobRemoved", body);
        jobs.listeners.retain(|l| l.send(signal.clone()).is_ok());
        path
    }
}

fn strings(call: &Message) -> Result<Vec<String>, String> {
    let list = call.body.first().and_then(Value::as_strings);
    list.ok_or_else(|| format!("{} without a list", call.member))
}

fn unit(name: &str) -> Result<UnitName, String> {
    UnitName::parse(name).map_err(|e| e.to_string())
}

/// A unit as it stands in systemd1's lists.
fn row(name: &UnitName, state: &ActualState) -> Value {
    let name = name.to_string();
    let path = names::unit_path(&name);
    let texts = [name.clone(), name, state.load.clone(), state.active.clone()];
    let mut fields: Vec<Value> = texts.into_iter().map(Value::Str).collect();
    fields.extend([
        Value::str(&*state.sub),
        Value::str(""),
        Value::path(path),
        Value::U32(0),
        Value::str(""),
        Value::path("/"),
    ]);
    Value::Struct(fields)
}
