package diagnose

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/tandem-lb/tandem/controlplane/internal/state"
	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

const (
	configuration = tandemv1.DiagnosisArea_DIAGNOSIS_AREA_CONFIGURATION
	interfaces    = tandemv1.DiagnosisArea_DIAGNOSIS_AREA_INTERFACE
	firewall      = tandemv1.DiagnosisArea_DIAGNOSIS_AREA_FIREWALL
	adverts       = tandemv1.DiagnosisArea_DIAGNOSIS_AREA_ADVERTS
	holding       = tandemv1.DiagnosisArea_DIAGNOSIS_AREA_HOLDER
	service       = tandemv1.DiagnosisArea_DIAGNOSIS_AREA_SERVICE
)

// cluster judges whether there is somebody to move a VIP to.
func (j *judgement) cluster() {
	if len(j.Nodes) > 1 {
		return
	}
	message, cure := "the cluster has one node: nobody can take its VIPs", "lbctl node token create NAME -o name > join.token, and start lb-agent with it on a second machine"
	if len(j.Nodes) == 0 {
		message = "no node has joined the cluster"
	}
	f := j.add(&tandemv1.DiagnosisFinding{
		Reason: "NO_STANDBY", Area: configuration, Message: message, Evidence: fmt.Sprintf("nodes of the cluster: %d", len(j.Nodes)), Cure: cure,
	})
	for _, v := range j.vips {
		f.stops(v, "") // whoever it would be
	}
}

// node judges what a node is by itself.
func (j *judgement) node(n *Node) {
	if !n.Connected {
		j.stopsNode(j.on(n, configuration, "NODE_DISCONNECTED",
			fmt.Sprintf("the agent of %s is not connected: what the node does now is not known, and it is given no VIP", n.ID),
			"no session with the controller",
			fmt.Sprintf("on %s: systemctl start lb-agent, and read journalctl -u lb-agent for what it fails at", n.ID)), n)
		return
	}
	j.asked(n)
	j.daemon(n, n.HAProxy, "HAProxy", "haproxy", "PROXY_DEAD", "it would refuse all clients")
	j.daemon(n, n.Keepalived, "keepalived", "keepalived", "KEEPALIVED_DEAD", "it cannot hold a VIP")
	j.score(n)
	j.failed(n)
	if n.Diagnosis != nil {
		j.networks(n)
		j.drops(n)
	}
}

// asked tells of what a node's agent did not find out. A standby that was not looked at
// is not called ready: what keeps it from taking a VIP may be just there.
func (j *judgement) asked(n *Node) {
	const unseen = "its firewall, interfaces, listeners, and servers without a check were not looked at"
	switch {
	case n.TooOld:
		j.on(n, configuration, "AGENT_TOO_OLD", fmt.Sprintf("the agent of %s is too old to be asked: %s", n.ID, unseen),
			n.Silence, fmt.Sprintf("upgrade lb-agent on %s to %s, the controller's version", n.ID, j.Version)).hides = []string{n.ID}
	case n.Diagnosis == nil:
		j.on(n, configuration, "AGENT_SILENT", fmt.Sprintf("the agent of %s has not answered: %s", n.ID, unseen),
			n.Silence, fmt.Sprintf("ask again; on %s: journalctl -u lb-agent", n.ID)).hides = []string{n.ID}
	}
	for _, text := range n.Diagnosis.GetFailures() {
		j.on(n, configuration, "NOT_LOOKED_AT", fmt.Sprintf("%s could not look at everything", n.ID), text,
			fmt.Sprintf("remove the cause on %s and ask again", n.ID)).hides = []string{n.ID}
	}
}

// daemon judges whether a daemon runs.
func (j *judgement) daemon(n *Node, d *agentv1.DaemonObservation, name, unit, reason, so string) {
	cure := fmt.Sprintf("on %s: systemctl start %s, and read journalctl -u %s; without units the agent starts it again by itself", n.ID, unit, unit)
	is := "does not run"
	switch d.GetState() {
	case agentv1.DaemonState_DAEMON_STATE_RUNNING:
		return
	case agentv1.DaemonState_DAEMON_STATE_MISSING:
		is, cure = "is not installed, or too old", fmt.Sprintf("on %s: apt-get install %s; the agent notices", n.ID, unit)
	case agentv1.DaemonState_DAEMON_STATE_IDLE:
		is, cure = "has nothing to do", "lbctl listener add: nothing is served yet"
		if unit == "keepalived" {
			cure = fmt.Sprintf("lbctl status: see why %s does not have the VIPs in effect", n.ID)
		}
	case agentv1.DaemonState_DAEMON_STATE_STOPPED, agentv1.DaemonState_DAEMON_STATE_UNSPECIFIED:
	}
	j.stopsNode(j.on(n, service, reason, fmt.Sprintf("%s on %s %s: %s", name, n.ID, is, so),
		cmp.Or(d.GetMessage(), "the agent sees no process of it"), cure), n)
}

// Parts of a score, as agents count them.
const (
	drainScore = -50
	trialScore = -56
)

// score judges what lowers a node's priorities.
func (j *judgement) score(n *Node) {
	if n.Drained {
		evidence, cure := "desired: lbctl node drain", "lbctl node undrain "+n.ID
		if n.DrainedThere {
			evidence, cure = "done on the machine: lb-agent drain", "lbctl node drift discard "+n.ID
		}
		j.stopsNode(j.on(n, holding, "DRAINED", n.ID+" is drained: it takes no VIP as long as another node can hold it",
			fmt.Sprintf("%s; its score is %d", evidence, n.Score), cure), n)
	}
	rest := n.Score
	if n.Drained && rest <= drainScore {
		rest -= drainScore
	}
	evidence := fmt.Sprintf("its score is %d, which keepalived adds to its priorities", n.Score)
	switch {
	case n.HAProxy.GetState() != agentv1.DaemonState_DAEMON_STATE_RUNNING || rest >= 0:
	case rest == trialScore:
		j.stopsNode(j.on(n, holding, "ON_TRIAL", fmt.Sprintf("HAProxy on %s has ended more than twice in a row and is on trial", n.ID), evidence,
			fmt.Sprintf("find out why it ends (on %s: journalctl -u haproxy); the trial ends by itself, after 5 min at most", n.ID)), n)
	default:
		j.stopsNode(j.on(n, holding, "SCORE_LOW", fmt.Sprintf("HAProxy on %s is not proven to serve", n.ID), evidence,
			fmt.Sprintf("wait a second and ask again; if it stays so, on %s: journalctl -u lb-agent -u haproxy", n.ID)), n)
	}
}

// failed judges whether a node has in effect what the others have, and tells of what
// it says itself.
func (j *judgement) failed(n *Node) {
	var apart []*tandemv1.Vip // of whose holders it departs
	holder := ""
	for _, v := range j.vips {
		if h := j.holder(id(v.GetName())); h != nil && h != n && (n.Structure == 0 || h.Structure != n.Structure) {
			apart, holder = append(apart, v), fmt.Sprintf("%s has that of revision %d", h.ID, h.Structure)
		}
	}
	evidence := fmt.Sprintf("structure of revision %d is in effect", n.Structure)
	if n.Structure == 0 {
		evidence = "nothing is in effect"
	}
	if holder != "" {
		evidence += ", " + holder
	}
	var f *finding
	switch {
	case n.Failed != 0:
		f = j.on(n, configuration, "APPLY_FAILED", fmt.Sprintf("%s could not put revision %d in effect: %s", n.ID, n.Failed, n.Failure), evidence,
			"remove the cause that the message names, or undo the change: lbctl history, lbctl rollback")
	case len(apart) > 0:
		f = j.on(n, configuration, "STRUCTURE_DIFFERS", n.ID+" has another configuration in effect than the holder", evidence,
			"wait until it is in effect (lbctl status); "+cmp.Or(n.Waiting, "nothing is known to hold it up"))
	case n.Waiting != "":
		j.on(n, configuration, "CHANGE_WAITS", n.ID+" waits for another node", n.Waiting,
			"bring the agent of the other node back; lbctl node remove NODE if it is gone for good, and switched off")
	}
	for _, v := range apart {
		f.stops(v, n.ID)
	}
	for _, text := range n.Problems {
		j.on(n, configuration, "NODE_PROBLEM", n.ID+" is not well: "+firstLine(text), "the agent says so itself (lbctl status)",
			"what the message says; lb-agent status on "+n.ID)
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// rest makes sure that nobody is called ready whom a failover would be refused to.
func (j *judgement) rest() {
	for _, v := range j.vips {
		vip := id(v.GetName())
		if j.holder(vip) == nil {
			continue
		}
		for n := range j.Nodes {
			x := &j.Nodes[n]
			if why := j.Unfit[vip][x.ID]; why != "" && len(j.obstacles(vip, x.ID)) == 0 {
				j.on(x, holding, "NOT_STANDING_BY", fmt.Sprintf("%s %s", x.ID, why), "a failover of "+state.VipName(j.Config.ID(), vip).String()+" to it would be refused",
					"lbctl status; lb-agent status on "+x.ID).stops(v, x.ID)
			}
		}
	}
}
