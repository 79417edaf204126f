//! What a user would pick instead: nginx, nginx with a Lua dictionary, webdis before Redis.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::ensure;

use super::server::{Kind, START_WITHIN};
use crate::load::MODULUS;
use crate::process::{Interrupt, Process};

const MODULES: &str = "/usr/lib/nginx/modules";

/// What has to be installed for `kind` and isn't.
pub(super) fn missing(kind: Kind) -> Option<&'static str> {
    let lacks = |name| !program(name).is_file();
    let lua = || ["ndk_http_module.so", "ngx_http_lua_module.so"].map(|file| Path::new(MODULES).join(file));
    match kind {
        Kind::Noop | Kind::Sync | Kind::Memory | Kind::Durable => None,
        Kind::Nginx => lacks("nginx").then_some("nginx"),
        Kind::NginxLua if lacks("nginx") => Some("nginx"),
        Kind::NginxLua => (!lua().iter().all(|file| file.is_file())).then_some("nginx's Lua module"),
        Kind::Webdis if lacks("redis-server") => Some("redis-server"),
        Kind::Webdis if lacks("redis-cli") => Some("redis-cli"),
        Kind::Webdis => lacks("webdis").then_some("webdis"),
    }
}

/// Where a program is: on the search path, or where Debian keeps those of the administrator.
/// Its bare name where it is nowhere.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file()).unwrap_or_else(|| name.into())
}

/// One worker for each core, no log of requests, connections that are never closed.
pub(super) fn nginx(
    directory: &Path,
    address: SocketAddr,
    with_dictionary_of: Option<u32>,
) -> anyhow::Result<Process> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (modules, http, locations) = match with_dictionary_of {
        None => (String::new(), String::new(), "location / { return 202; }".to_owned()),
        Some(keys) => lua(keys),
    };
    let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {}/{name};\n", directory.display()))
        .concat();
    let settings = format!(
        "{modules}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile 65536;\npid nginx.pid;\n\
         error_log error.log;\nevents {{ worker_connections 32768; }}\nhttp {{\n  access_log off;\n{places}{http}\
         \n  keepalive_requests 1000000000;\n  keepalive_timeout 1h;\n  client_body_buffer_size 16k;\n\
         \n  server {{ listen {address} backlog=4096; {locations} }}\n}}\n"
    );
    fs::write(directory.join("nginx.conf"), settings)?;
    let mut nginx = Command::new(program("nginx"));
    nginx.arg("-p").arg(directory).arg("-c").arg(directory.join("nginx.conf"));
    nginx.arg("-e").arg(directory.join("error.log"));
    Process::start(&mut nginx, Stdio::null())
}

/// Modules, settings and places of nginx with a shared dictionary for so many keys. A dictionary
/// that is full would forget keys; then the answer is an error.
fn lua(keys: u32) -> (String, String, String) {
    let modules =
        format!("load_module {MODULES}/ndk_http_module.so;\nload_module {MODULES}/ngx_http_lua_module.so;\n");
    let megabytes = 16 + keys / 4000;
    let http = format!(
        "  lua_shared_dict totals {megabytes}m;\n  init_by_lua_block {{ cjson = require 'cjson.safe' }}\n"
    );
    let locations = format!(
        "location /increment {{ content_by_lua_block {{
            ngx.req.read_body()
            local body = cjson.decode(ngx.req.get_body_data())
            if not body then return ngx.exit(400) end
            local total, _, forgot = ngx.shared.totals:incr(body.key, body.value, 0)
            if not total or forgot then return ngx.exit(507) end
            ngx.status = 202
            ngx.header.content_length = 0
            return ngx.exit(202)
        }} }}
        location /sums {{ content_by_lua_block {{
            local sum, weighted = 0, 0
            for _, key in ipairs(ngx.shared.totals:get_keys(0)) do
                local total = ngx.shared.totals:get(key)
                sum = sum + total
                weighted = (weighted + total * tonumber(key:sub(5))) % {MODULUS}
            end
            local text = string.format('%.0f|%.0f', sum, weighted)
            ngx.header.content_length = #text
            ngx.print(text)
        }} }}"
    );
    (modules, http, locations)
}

/// Redis that syncs its log before every answer, and webdis, which speaks HTTP before it. Redis is there
/// first: a thread of webdis that doesn't find it refuses requests for 100 ms, while others serve already.
pub(super) fn webdis(
    directory: &Path,
    address: SocketAddr,
    redis_address: SocketAddr,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<Process>> {
    let port = redis_address.port().to_string();
    let mut redis = Command::new(program("redis-server"));
    redis.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
    redis.args(["--appendfsync", "always", "--daemonize", "no", "--dir"]).arg(directory);
    let mut redis = Process::start(&mut redis, Stdio::null())?;
    redis.until_ready(START_WITHIN, interrupt, || sums_in_redis(redis_address).is_ok())?;
    let settings = serde_json::json!({
        "redis_host": "127.0.0.1",
        "redis_port": redis_address.port(),
        "redis_auth": null,
        "http_host": "127.0.0.1",
        "http_port": address.port(),
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "pool_size": 20,
        "daemonize": false,
        "websockets": false,
        "database": 0,
        "acl": [],
        "verbosity": 0,
        "logfile": directory.join("webdis.log"),
    });
    let file = directory.join("webdis.json");
    fs::write(&file, settings.to_string())?;
    let webdis = Process::start(Command::new(program("webdis")).arg(file), Stdio::null())?;
    // webdis is dropped first.
    Ok(vec![webdis, redis])
}

/// What Redis holds: the sum, and the weighted one.
pub(crate) fn sums_in_redis(address: SocketAddr) -> anyhow::Result<String> {
    let script = format!(
        "local sum, weighted = 0, 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
         local total = tonumber(redis.call('GET', key)) sum = sum + total \
         weighted = (weighted + total * tonumber(key:sub(5))) % {MODULUS} end \
         return string.format('%.0f|%.0f', sum, weighted)"
    );
    let mut cli = Command::new(program("redis-cli"));
    let output = cli.args(["-p", &address.port().to_string(), "--raw", "EVAL", &script, "0"]).output()?;
    ensure!(output.status.success(), "redis-cli failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
