//! Another server: Debian's nginx with its RTMP module.

use crate::tools::eventually;
use anyhow::{Context, Result};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Where Debian puts the module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";

/// A running nginx that takes and gives streams of the application `live`.
pub struct Nginx {
    child: Option<Child>,
    config: PathBuf,
    directory: TempDir,
    /// Where it speaks RTMP.
    pub address: SocketAddr,
}

impl Nginx {
    /// Whether it can be had here; tests say so when they skip.
    pub fn is_there() -> bool {
        Path::new(MODULE).is_file()
    }

    /// Starts one.
    pub fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("braidcast-nginx-").tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = directory.path().join("nginx.conf");
        let root = directory.path().display();
        let user = if crate::tools::is_root() { "user root;" } else { "" };
        let text = format!(
            "load_module {MODULE};\n{user}\ndaemon off;\nworker_processes 1;\npid {root}/pid;\nerror_log {root}/log warn;\n\
             events {{ worker_connections 256; }}\nrtmp {{ access_log off; server {{ listen {address}; application live {{ live on; }} }} }}\n"
        );
        std::fs::write(&config, text)?;
        let mut nginx = Self { child: None, config, directory, address };
        nginx.start_again()?;
        Ok(nginx)
    }

    /// Starts it on the same port after [`Nginx::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&self.config).arg("-p").arg(self.directory.path()).arg("-e").arg(self.directory.path().join("early.log"));
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("starting nginx")?);
        let there = || TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).is_ok().then_some(());
        eventually(Duration::from_secs(20), there).context("nginx does not listen")
    }

    /// Ends it and its connections.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The master ends its worker; SIGKILL would leave that.
            let _ = Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }

    /// `rtmp://…/live/NAME`.
    pub fn rtmp(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.address)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.kill();
    }
}
