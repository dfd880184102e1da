"""The place of a process: by flags, and in made-up environments of SLURM, Open MPI and Cloud TPU."""

import http.server
import os
import pathlib
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxconv.errors import ConfigError
from jaxconv.platform import cluster
from jaxconv.platform.cluster import Place
from tests.conftest import ROOT

NO_FLAGS = (None, None, None)

SLURM = {
    "SLURM_JOB_ID": "1000",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "node[001-004,7],other",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_PROCID": "3",
}
SLURM_PLACE = Place("node001:62442", 6, 3)

RANK_1_OF_2 = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
ONE_HOST, TWO_HOSTS = {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
OPEN_MPI_4 = RANK_1_OF_2 | TWO_HOSTS | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
OPEN_MPI_4_PLACE = Place("10.96.0.1:62624", 2, 1)

TPU = {"TPU_WORKER_HOSTNAMES": "t-0,t-1,t-2,t-3", "TPU_WORKER_ID": "2"}
TPU_PLACE = Place("t-0:8476", 4, 2)

ENDPOINTS, NUMBER = "worker-network-endpoints", "agent-worker-number"


@pytest.fixture
def devices(monkeypatch):
    """The devices that a TPU may be, by name; none at first."""
    names, glob = [], pathlib.Path.glob

    def made_up(path, pattern):
        if path != pathlib.Path("/dev"):
            return glob(path, pattern)
        return (path / name for name in names if (path / name).match(pattern))

    monkeypatch.setattr(pathlib.Path, "glob", made_up)
    return names


@pytest.fixture(autouse=True)
def _no_devices(devices):
    pass


@pytest.fixture
def google(monkeypatch):
    """Google's metadata server: its attributes, none at first, and the paths of the requests."""
    attributes, requests = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            folder, _, key = self.path.rpartition("/")
            known = folder == "/computeMetadata/v1/instance/attributes" and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known and key in attributes else 404)
            self.end_headers()
            self.wfile.write(attributes.get(key, "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield attributes, requests
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        (NO_FLAGS, None),
        (("node1:1234", 2, 0), Place("node1:1234", 2, 0)),
        (("node1:1234", 2, 1), Place("node1:1234", 2, 1)),
        (("10.0.0.1:65535", 1000, 999), Place("10.0.0.1:65535", 1000, 999)),
        (("[2620:10d::2]:1", 2, 0), Place("[2620:10d::2]:1", 2, 0)),
        ((None, 1, None), None),
        (("node1:1234", 1, 0), None),
    ],
)
def test_flags_give_the_place(flags, place):
    assert cluster.find(*flags, {}) == place


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("node1:1234", None, None), "need --coordinator=HOST:PORT, --num_processes=N and --process_id=I"),
        ((None, 2, None), "need --coordinator=HOST:PORT, --num_processes=N and --process_id=I"),
        ((None, None, 0), "need --coordinator=HOST:PORT, --num_processes=N and --process_id=I"),
        (("node1:1234", 2, None), "need --coordinator=HOST:PORT, --num_processes=N and --process_id=I"),
        ((None, 2, 0), "need --coordinator=HOST:PORT, --num_processes=N and --process_id=I"),
        (("node1:1234", 0, 0), "--num_processes=0 must be 1 or more."),
        (("node1:1234", -2, 0), "--num_processes=-2 must be 1 or more."),
        (("node1:1234", 2, 2), "--process_id=2 must be from 0 to 1, the last of them."),
        (("node1:1234", 2, -1), "--process_id=-1 must be from 0 to 1, the last of them."),
        (("node1", 2, 0), "--coordinator=node1 must be HOST:PORT, such as node1:1234."),
        (("node1:", 2, 0), "--coordinator=node1: must be HOST:PORT"),
        ((":1234", 2, 0), "--coordinator=:1234 must be HOST:PORT"),
        (("node1:0", 2, 0), "--coordinator=node1:0 must be HOST:PORT"),
        (("node1:65536", 2, 0), "--coordinator=node1:65536 must be HOST:PORT"),
        (("node1:port", 2, 0), "--coordinator=node1:port must be HOST:PORT"),
        (("node1:-1", 2, 0), "--coordinator=node1:-1 must be HOST:PORT"),
        (("", 2, 0), "--coordinator= must be HOST:PORT"),
    ],
)
def test_wrong_flags_are_refused_in_a_sentence(flags, sentence):
    with pytest.raises(ConfigError) as error:
        cluster.find(*flags, {})
    assert sentence in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("coordinator", "host", "port"),
    [("node1:1234", "node1", 1234), ("10.0.0.1:80", "10.0.0.1", 80), ("[fe80::b9b]:80", "fe80::b9b", 80)],
)
def test_host_and_port(coordinator, host, port):
    assert cluster.host_and_port(Place(coordinator, 2, 0)) == (host, port)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node001", "node001"),
        ("node[001-004,7],other", "node001"),
        ("node[7,001-004],other", "node7"),
        ("node[001,003]", "node001"),
        ("a,b", "a"),
        ("a,b[1-2]", "a"),
        ("gpu-a100-[09-12]", "gpu-a100-09"),
        ("rack[0-3]node[10-12]", "rack0node10"),
        ("n[1-2]-ib", "n1-ib"),
    ],
)
def test_slurm_names_the_first_host(nodes, host):
    assert cluster.find(*NO_FLAGS, SLURM | {"SLURM_STEP_NODELIST": nodes}) == SLURM_PLACE._replace(
        coordinator=f"{host}:62442"
    )


@st.composite
def _compressed_lists(draw):
    """A list of hosts as SLURM writes it, and the first that `scontrol show hostnames` would print."""
    text, hosts = [], []
    for _ in range(draw(st.integers(1, 3))):
        compressed = first = ""
        for _ in range(draw(st.integers(1, 2))):
            name = draw(st.from_regex(r"[a-z]([a-z0-9-]{0,5}[a-z])?", fullmatch=True))
            width = draw(st.integers(1, 4))
            starts = draw(st.lists(st.integers(0, 9999), max_size=3))
            ranges = [(low, draw(st.none() | st.integers(low + 1, 10**4))) for low in starts]
            numbers = [f"{low:0{width}}" + (f"-{high:0{width}}" if high else "") for low, high in ranges]
            compressed += name + (f"[{','.join(numbers)}]" if numbers else "")
            first += name + (f"{starts[0]:0{width}}" if starts else "")
        text.append(compressed)
        hosts.append(first)
    return ",".join(text), hosts[0]


@given(_compressed_lists(), st.integers(1, 10**9), st.integers(0, 2**32 - 1))
def test_tasks_of_any_step_meet_at_the_first_host(listed, job, step):
    nodes, host = listed
    environment = SLURM | {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}
    places = [cluster.find(*NO_FLAGS, environment | {"SLURM_PROCID": str(task)}) for task in range(6)]
    assert [place.process_id for place in places] == [0, 1, 2, 3, 4, 5]
    assert {cluster.host_and_port(place)[0] for place in places} == {host}
    (port,) = {cluster.host_and_port(place)[1] for place in places}
    assert 61440 <= port < 65536


@pytest.mark.parametrize(
    "environment",
    [
        {name: SLURM[name] for name in SLURM if name not in ("SLURM_STEP_ID", "SLURM_STEP_NODELIST")},  # sbatch alone
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        RANK_1_OF_2 | ONE_HOST | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        TPU | {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        {"TPU_WORKER_HOSTNAMES": "t-0,t-1"},
    ],
)
def test_one_process_has_no_place(environment):
    assert cluster.find(*NO_FLAGS, environment) is None


@pytest.mark.parametrize(
    ("uri", "coordinator"),
    [
        ("1531576320.0;tcp://10.96.0.1,10.148.0.1,10.108.0.1:34911", "10.96.0.1:62624"),
        ("1531576320.0;tcp://10.96.0.1:34911", "10.96.0.1:62624"),
        ("1314521088.0;tcp6://[fe80::b9b:ac5d,2620:10d::2]:43370", "[fe80::b9b:ac5d]:62880"),
        ("1314521088.0;tcp6://[fe80::b9b:ac5d]:43370", "[fe80::b9b:ac5d]:62880"),
    ],
)
def test_open_mpi_4_names_the_launcher(uri, coordinator):
    environment = OPEN_MPI_4 | {"OMPI_MCA_orte_hnp_uri": uri}
    assert cluster.find(*NO_FLAGS, environment) == OPEN_MPI_4_PLACE._replace(coordinator=coordinator)


def test_open_mpi_5_is_enough_on_one_host():
    environment = RANK_1_OF_2 | ONE_HOST | {"PMIX_NAMESPACE": "prterun-node1-4242@1"}
    place = cluster.find(*NO_FLAGS, environment)
    assert place[1:] == (2, 1)
    assert place.coordinator == f"localhost:{61440 + sum(b'prterun-node1-4242@1') % 4096}"
    assert cluster.find(*NO_FLAGS, environment | {"OMPI_COMM_WORLD_RANK": "0"}) == place._replace(process_id=0)


def test_open_mpi_5_on_several_hosts_asks_for_the_coordinator():
    environment = RANK_1_OF_2 | TWO_HOSTS | {"PMIX_NAMESPACE": "prterun-node1-4242@1"}
    with pytest.raises(ConfigError, match="need --coordinator=HOST:PORT"):
        cluster.find(*NO_FLAGS, environment)
    assert cluster.find("node1:1234", None, None, environment) == Place("node1:1234", 2, 1)


def test_mpirun_within_an_allocation_of_slurm_knows_its_ranks():
    """Its daemons, one a host, are the tasks of a step of srun."""
    daemon = SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    assert cluster.find(*NO_FLAGS, daemon | OPEN_MPI_4) == OPEN_MPI_4_PLACE


def test_a_tpu_slice_by_its_environment():
    assert cluster.find(*NO_FLAGS, TPU) == TPU_PLACE


@pytest.mark.parametrize("device", ["accel0", "vfio/0"])
@pytest.mark.parametrize("endpoints", ["10.0.0.5,10.0.0.6", "a:1:10.0.0.5,b:2:10.0.0.6"])
def test_a_tpu_slice_by_the_metadata_server(devices, google, device, endpoints):
    devices.append(device)
    google[0].update({ENDPOINTS: endpoints, NUMBER: "1"})
    assert cluster.find(*NO_FLAGS, {}) == Place("10.0.0.5:8476", 2, 1)


def test_a_tpu_of_one_host_has_no_place(devices, google):
    devices.append("accel0")
    google[0].update({ENDPOINTS: "10.0.0.5", NUMBER: "0"})
    assert cluster.find(*NO_FLAGS, {}) is None


def test_a_machine_of_google_without_a_slice_has_no_place(devices, google):
    devices.append("accel0")
    assert cluster.find(*NO_FLAGS, {}) is None
    assert google[1]


def test_no_metadata_server(devices, monkeypatch):
    devices.append("accel0")
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert cluster.find(*NO_FLAGS, {}) is None


@pytest.mark.parametrize(
    ("device", "flags", "environment"),
    [
        ("accel0", ("node1:1234", 2, 0), {}),
        ("accel0", NO_FLAGS, SLURM),
        ("accel0", NO_FLAGS, OPEN_MPI_4),
        ("accel0", NO_FLAGS, TPU),
        ("accel0", NO_FLAGS, {"TPU_SKIP_MDS_QUERY": "1"}),
        ("vfio/vfio", NO_FLAGS, {}),
        ("nvidia0", NO_FLAGS, {}),
    ],
)
def test_the_network_is_not_asked_without_need(devices, google, device, flags, environment):
    devices.append(device)
    cluster.find(*flags, environment)
    assert google[1] == []


@pytest.mark.parametrize(
    ("environment", "place"), [(SLURM, SLURM_PLACE), (OPEN_MPI_4, OPEN_MPI_4_PLACE), (TPU, TPU_PLACE)]
)
def test_a_flag_overrides_one_value(environment, place):
    assert cluster.find("node9:1234", None, None, environment) == place._replace(coordinator="node9:1234")
    assert cluster.find(None, 7, None, environment) == place._replace(num_processes=7)
    assert cluster.find(None, None, 0, environment) == place._replace(process_id=0)
    assert cluster.find(None, 1, None, environment) is None
    assert cluster.find("node9:1234", 5, 4, environment) == Place("node9:1234", 5, 4)


@pytest.mark.parametrize(("process_id", "leads"), [(0, True), (1, False)])
def test_a_worker_knows_its_place(monkeypatch, process_id, leads):
    place = Place("node1:1234", 2, process_id)
    for name, value in cluster.worker(place).items():
        monkeypatch.setenv(name, value)
    assert cluster.own_place() == place
    assert cluster.is_lead() == leads
    assert cluster.worker(place)["no_grpc_proxy"] == "node1"


def test_the_only_process_leads(monkeypatch):
    monkeypatch.delenv("JAXCONV_WORKER", raising=False)
    assert cluster.own_place() is None
    assert cluster.is_lead()


@pytest.mark.skipif(sys.platform != "linux", reason="another system")
@pytest.mark.parametrize(("parent", "status"), [({}, 0), ({"JAXCONV_PARENT": "-1"}, 1)])
def test_an_orphan_ends_at_once(parent, status):
    process = subprocess.run(
        [sys.executable, "-c", "from jaxconv.platform import cluster; cluster.end_with_parent()"],
        cwd=ROOT,
        env=os.environ | cluster.child() | parent,
    )
    assert process.returncode == status
