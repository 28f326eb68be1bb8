package cmd

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-lb/tandem/cli/internal/golden"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// TestRequests holds what each command line asks of the API; the golden file
// is for reading.
func TestRequests(t *testing.T) {
	r := newRecorder(t)
	r.replies["GetVip"] = []proto.Message{&tandemv1.Vip{Etag: "v1", Priorities: map[string]uint32{"lb-master": 150, "lb-backup": 100}}}
	r.replies["GetListener"] = []proto.Message{&tandemv1.Listener{Etag: "l1", Binds: []*tandemv1.Bind{{Vip: "web", Port: 80}, {Address: "192.0.2.1", Port: 80}, {Vip: "web", Port: 443}}}}
	r.replies["GetCluster"] = []proto.Message{&tandemv1.Cluster{Etag: "c1", StatsPage: &tandemv1.StatsPage{Users: []*tandemv1.StatsUser{{Name: "admin", PasswordSet: true}, {Name: "ops", PasswordSet: true}}}}}
	r.replies["GetBackend"] = []proto.Message{&tandemv1.Backend{Override: &tandemv1.Override{State: "drain"}}}
	password := r.write("password", "s3cret pass\n")
	file := r.write("cluster.yaml", "cluster: {name: other}\npools:\n- name: web_servers\n  connect_timeout: 500ms\n  backends: [{name: web1, address: 192.168.1.20, port: 80}]\n")

	commands := []string{
		"pool add web_servers",
		"pool add web_servers --balance roundrobin --check 'GET /health' --interval 2s --rise 2 --fall 3",
		"pool add db --protocol tcp --check tcp -m 'for the shop' --dry-run",
		"pool add static --check /ping --check-host www.example.com --check-status 200 --check-port 8081 --check-timeout 500ms",
		"pool set web_servers --connect-timeout 5s",
		"pool set web_servers --check none --redispatch=false --retries 0 --etag e7",
		"pool set web_servers --check tcp --unset connect-timeout,queue_timeout",
		"pool set clusters/other/pools/web_servers --unset check",
		"pool list",
		"pool show web_servers",
		"pool remove web_servers --etag e7",
		"backend add web_servers/web1 192.168.1.20:80 --weight 1",
		"backend add web_servers/web6 [2001:db8::20]:80 --backup --max-connections 100",
		"backend add web_servers/web1 192.168.1.999:80",
		"backend set web_servers/web1 --weight 0",
		"backend set web_servers/web1 --address 192.168.1.21 --port 8080 --unset max-connections",
		"backend list web_servers",
		"backend show web_servers/web1",
		"backend drain web_servers/web1 --reason 'new kernel'",
		"backend maintenance web_servers/web1",
		"backend ready web_servers/web1 --reason done",
		"backend remove web_servers/web1",
		"vip add web 192.168.1.100/24 --vrid 51",
		"vip add web 192.168.1.100/24 2001:db8::100/64 --vrid 51 --network back --priority lb-master=120 --priority lb-backup=110 --fail-back delayed --fail-back-delay 1m --advert-interval 1s",
		"vip set web --priority lb-master=120",
		"vip set web --address 192.168.1.100/24 --address 192.168.1.101/24 --vrid 52",
		"vip set web --unset priority",
		"vip set web --profile wan --unset advert-interval",
		"vip set web --announce-repeat 3 --announce-refresh 0s",
		"vip add web 192.168.1.100/24 --vrid 51 --track gateway --track 'url http://192.168.1.5/up?a=b status=200 fall=2'",
		"vip set web --track 'gateway 192.168.1.1 weight=-30' --track 'ping 2001:db8::1 interval=500ms timeout=100ms rise=1'",
		"vip set web --track 'network back weight=-12'",
		"vip set web --unset track",
		"vip add web 192.168.1.100/24 --vrid 51 --vrrp-network vrrp --unicast",
		"vip set web --unicast=false --unset vrrp-network",
		"cluster set --unicast",
		"vip profile",
		"vip profile web",
		"vip list",
		"vip remove web",
		"listener add web_frontend --vip web --port 80 --protocol http --pool web_servers",
		"listener add games --port 7000-7010 --port 80 --vip web --address 192.0.2.1 --protocol tcp --pool games",
		"listener add any --port 80 --pool p --probe-path /up --probe-status 204",
		"listener set web_frontend --port 8080",
		"listener set web_frontend --vip db --client-timeout 30s",
		"listener set web_frontend --address *",
		"listener set web_frontend --pool other --unset probe,max-connections",
		"listener list",
		"listener remove web_frontend",
		"cluster add staging --vrrp-version 2",
		"cluster set --stats-user admin --stats-password-file " + password,
		"cluster set other --stats-user new --stats-password-file - --stats-port 9000",
		"cluster set --client-timeout 30s --listener-max-connections 500 --max-connections 5000 --log-target 127.0.0.1:514",
		"cluster set --log-target file --log-format json --log-query=false",
		"cluster set --vrrp-password-file " + password,
		"cluster set --unset stats-page,vrrp-version",
		"cluster list",
		"cluster show",
		"cluster show other",
		"cluster remove staging",
		"vip failover web",
		"vip failover web --to lb-backup --for 10m --reason 'new kernel'",
		"node token create lb-master",
		"node token create lb-master --ttl 1h",
		"node replace lb-master",
		"node replace lb-master --ttl 1h",
		"node list",
		"node show lb-master",
		"node drift",
		"node drift keep lb-master",
		"node drift keep lb-master --drain --backend web_servers/web1 -m 'as it is' --dry-run",
		"node drift discard lb-master",
		"node drift discard lb-master --backend web_servers/web1",
		"node drain lb-master",
		"node undrain lb-master",
		"node remove lb-master",
		"--cluster staging node list",
		"plan -f " + file,
		"apply -f " + file,
		"--cluster third apply --dry-run --etag e9 -f " + file,
		"export",
		"status",
		"events --tail 5",
		"history",
		"history --limit 3",
		"history list",
		"history show 12",
		"ca status",
		"ca show",
		"ca begin",
		"ca activate --force",
		"ca retire",
		"ca cancel",
	}
	var out bytes.Buffer
	for _, line := range commands {
		got := r.run("typed\n", split(line)...)
		fmt.Fprintf(&out, "$ lbctl %s\n", strings.ReplaceAll(line, r.dir, "DIR"))
		for _, call := range r.taken() {
			fmt.Fprintf(&out, "  %s\n", call)
		}
		if got.code != 0 {
			t.Errorf("lbctl %s: %s", line, got)
		}
	}
	golden.Check(t, "requests.golden", out.Bytes())
}

// split splits a command line at spaces outside of single quotes.
func split(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}
