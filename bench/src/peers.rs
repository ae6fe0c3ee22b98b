//! The peers: servers of others that do the same, from their Debian packages, as our children.

use std::fs;
use std::path::Path;

use crate::child::{Child, Leashed};
use crate::contestant::{Contestant, Running, answers, folder, plain_door, reserve};
use crate::dialect::Dialect;
use crate::machine::worker_count;
use crate::target::Target;

/// nginx with as many workers as the gateway has.
pub(crate) fn nchan() -> anyhow::Result<Running> {
    installed(NGINX, "nginx-light")?;
    installed(NCHAN, "libnginx-mod-nchan")?;
    let folder = folder()?;
    let (door, path) = (reserve()?, folder.path().display().to_string());
    let configuration = format!(
        "load_module {NCHAN};
daemon off;
worker_processes {};
worker_rlimit_nofile 65536;
pid {path}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 60000; }}
http {{
  access_log off;
  client_body_temp_path {path}/body;
  proxy_temp_path {path}/proxy;
  fastcgi_temp_path {path}/fastcgi;
  uwsgi_temp_path {path}/uwsgi;
  scgi_temp_path {path}/scgi;
  client_body_buffer_size 1m;
  client_max_body_size 4m;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  tcp_nodelay on;
  nchan_shared_memory_size 512m;
  nchan_message_buffer_length 4000;
  nchan_message_timeout 60s;
  server {{
    listen {} backlog=4096;
    location ~ /pub/(.+)$ {{ nchan_publisher; nchan_channel_id $1; }}
    location ~ /sub/(.+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
    }}
  }}
}}
",
        worker_count(),
        door.address
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = Leashed::command(Path::new(NGINX))?;
    command.arg("-p").arg(folder.path()).arg("-e").arg("stderr").arg("-c").arg(file);
    let mut child = Child::start(Contestant::Nchan.name(), &mut command, folder.path())?;
    child.wait_until(|| answers(door.address))?;
    let target = Target {
        name: Contestant::Nchan.name(),
        dialect: Dialect::Nchan,
        publish: plain_door(door.address),
        subscribe: plain_door(door.address),
        authorization: None,
        pids: vec![child.pid()],
        session_pids: vec![child.pid()],
    };
    Ok(Running::started(target, vec![child], vec![door], folder))
}

/// nats-server with its WebSocket door.
pub(crate) fn nats() -> anyhow::Result<Running> {
    installed(NATS, "nats-server")?;
    let folder = folder()?;
    let (publish, subscribe) = (reserve()?, reserve()?);
    let configuration = format!(
        "listen: \"{}\"\nmax_connections: 100000\nwebsocket {{\n  listen: \"{}\"\n  no_tls: true\n  compression: false\n}}\n",
        publish.address, subscribe.address
    );
    let file = folder.path().join("nats.conf");
    fs::write(&file, configuration)?;
    let mut command = Leashed::command(Path::new(NATS))?;
    command.arg("-c").arg(file);
    let mut child = Child::start(Contestant::Nats.name(), &mut command, folder.path())?;
    child.wait_until(|| answers(publish.address) && answers(subscribe.address))?;
    let target = Target {
        name: Contestant::Nats.name(),
        dialect: Dialect::Nats,
        publish: plain_door(publish.address),
        subscribe: plain_door(subscribe.address),
        authorization: None,
        pids: vec![child.pid()],
        session_pids: vec![child.pid()],
    };
    Ok(Running::started(target, vec![child], vec![publish, subscribe], folder))
}

fn installed(file: &str, package: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        Path::new(file).exists(),
        "there is no {file}: install the Debian package {package}"
    );
    Ok(())
}

const NGINX: &str = "/usr/sbin/nginx";
const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
const NATS: &str = "/usr/sbin/nats-server";
