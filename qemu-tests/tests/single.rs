//! One machine: the elasticsearch example, Debian's own clients, kills of our daemons (issue 2, shows 2, 6, 7).

use std::time::Duration;

use qemu_tests::process::wait_for;
use qemu_tests::world::http_get;
use qemu_tests::{World, examples};

/// 2014's user data, unmodified: container answers, unit is active and lists its processes.
#[test]
fn elasticsearch_example_runs_unmodified() -> anyhow::Result<()> {
    let w = World::new("es")?.with_registry()?;
    let m = w.boot(1, examples::ELASTICSEARCH)?;
    let port = w.forward(&m.spec.address, 9200)?;
    let body = wait_for("port 9200", w.accel.scale(Duration::from_secs(180)), || {
        Ok(http_get(port).ok())
    })?;
    assert!(body.contains("flotilla-web"), "{body}");
    assert_eq!(m.ssh("systemctl is-active es.service")?.trim(), "active");
    let status = m.ssh("systemctl status --no-pager es.service")?;
    assert!(status.contains("/web 9200"), "{status}");
    let ps = m.ssh("docker ps")?;
    assert!(
        ps.contains("dockerfile/elasticsearch") && ps.contains("9200->9200/tcp"),
        "{ps}"
    );
    Ok(())
}
