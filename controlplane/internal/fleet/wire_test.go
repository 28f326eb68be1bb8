package fleet

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/tandem-lb/tandem/gen/tandem/agent/v1"
)

// hearing is holding on a node that listens and hears those advertisers.
func hearing(s agentv1.VrrpState, mac string, advertisers ...string) *agentv1.InstanceSet {
	set := holding(s)
	i := set.Instances[0]
	i.Listens, i.Mac = true, mac
	for _, a := range advertisers {
		i.Advertisers = append(i.Advertisers, &agentv1.Advertiser{Address: a})
	}
	return set
}

// finding adds what a node has found.
func finding(set *agentv1.InstanceSet, kind agentv1.FindingKind, who, text string) *agentv1.InstanceSet {
	set = proto.CloneOf(set)
	set.Instances[0].Findings = append(set.Instances[0].Findings, &agentv1.Finding{Kind: kind, Who: who, Text: text})
	return set
}

const (
	masterMAC = "02:00:00:00:00:01"
	backupMAC = "02:00:00:00:00:02"
	mismatch  = agentv1.FindingKind_FINDING_KIND_ADVERT_MISMATCH
	foreigner = agentv1.FindingKind_FINDING_KIND_FOREIGN_SPEAKER
	duplicate = agentv1.FindingKind_FINDING_KIND_DUPLICATE_ADDRESS
)

// I7: what the nodes find on the wire is an alarm within a second, with what was
// seen and who saw it, and is over with its cause.
func TestI7FindingsAreAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		holder, standby := hearing(master, masterMAC), hearing(backup, backupMAC, "192.168.1.10")
		a.observe(&agentv1.Observation{Instances: holder})
		b.observe(&agentv1.Observation{Instances: standby})
		pass(time.Minute)
		l.wantAlarms()
		for reason, kind := range map[string]agentv1.FindingKind{
			"ADVERT_MISMATCH": mismatch, "FOREIGN_VRRP_SPEAKER": foreigner, "DUPLICATE_ADDRESS": duplicate,
			"NOTHING_RECEIVED": agentv1.FindingKind_FINDING_KIND_NOTHING_RECEIVED,
			"NOTHING_SENT":     agentv1.FindingKind_FINDING_KIND_NOTHING_SENT,
		} {
			a.observe(&agentv1.Observation{Instances: finding(holder, kind, "02:00:00:00:00:09", "something is wrong")})
			b.observe(&agentv1.Observation{Instances: finding(standby, kind, "02:00:00:00:00:09", "something is wrong")})
			pass(time.Second)
			l.wantAlarms(reason + " web")
			if text := l.status().GetAlarms()[0].GetMessage(); text != "VIP web: something is wrong (seen by lb-master and lb-backup)" {
				t.Errorf("%s: %q", reason, text)
			}
			a.observe(&agentv1.Observation{Instances: holder})
			b.observe(&agentv1.Observation{Instances: standby})
			pass(lingering)
			l.wantAlarms()
		}
	})
}

// While both nodes change their settings they do not agree for a moment.
func TestAMismatchOfAMomentIsNoAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		holder := hearing(master, masterMAC)
		b.observe(&agentv1.Observation{Instances: hearing(backup, backupMAC, "192.168.1.10")})
		a.observe(&agentv1.Observation{Instances: finding(holder, mismatch, "192.168.1.11", "lb-backup advertises otherwise")})
		pass(moving / 2)
		l.wantAlarms()
		a.observe(&agentv1.Observation{Instances: holder})
		pass(time.Minute)
		l.wantAlarms()
		if got := l.log.reasons("clusters/default/vips/web"); slices.Contains(got, "ALARM_RAISED") {
			t.Errorf("events %v", got)
		}
	})
}

// What anybody on the network can raise and end as often as they like is one
// alarm, not thousands of events.
func TestAlarmOfStrangersLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		holder := hearing(master, masterMAC)
		b.observe(&agentv1.Observation{Instances: hearing(backup, backupMAC, "192.168.1.10")})
		for range 100 {
			a.observe(&agentv1.Observation{Instances: finding(holder, foreigner, "192.168.1.9", "a stranger speaks")})
			pass(time.Second)
			l.wantAlarms("FOREIGN_VRRP_SPEAKER web")
			a.observe(&agentv1.Observation{Instances: holder})
			pass(time.Second)
		}
		pass(lingering)
		l.wantAlarms()
		var about []string
		l.log.mu.Lock()
		for _, e := range l.log.all {
			if strings.HasPrefix(e.GetMessage(), "FOREIGN_VRRP_SPEAKER") {
				about = append(about, e.GetReason())
			}
		}
		l.log.mu.Unlock()
		if !slices.Equal(about, []string{"ALARM_RAISED", "ALARM_CLEARED"}) {
			t.Errorf("events %v", about)
		}
	})
}

// A node that the others do not hear answers for the VIP, too: that it is a holder
// too many is told by its own word.
func TestNodesAreNoStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		a.observe(&agentv1.Observation{Instances: finding(hearing(master, masterMAC, "192.168.1.11"), duplicate, backupMAC, "192.168.1.100 is there, too")})
		b.observe(&agentv1.Observation{Instances: hearing(backup, backupMAC, "192.168.1.10")})
		pass(time.Minute)
		l.wantAlarms()
	})
}

func TestPeerSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := pair(t)
		holder := hearing(master, masterMAC)
		for name, test := range map[string]struct {
			b    *agentv1.InstanceSet
			want []string
		}{
			"a standby hears the holder":       {hearing(backup, backupMAC, "192.168.1.10"), nil},
			"a standby hears nobody":           {hearing(backup, backupMAC), []string{"PEER_SILENT web"}},
			"a standby hears a stranger alone": {finding(hearing(backup, backupMAC, "192.168.1.9"), foreigner, "192.168.1.9", "a stranger speaks"), []string{"FOREIGN_VRRP_SPEAKER web", "PEER_SILENT web"}},
			"nobody listens":                   {holding(backup), nil},
			"an interface without a cable":     {hearing(fault, backupMAC), nil},
			"two hold it, and neither hears":   {hearing(master, backupMAC), []string{"TWO_HOLDERS web", "PEER_SILENT web"}},
		} {
			a.observe(&agentv1.Observation{Instances: holder})
			b.observe(&agentv1.Observation{Instances: hearing(backup, backupMAC, "192.168.1.10")})
			pass(lingering)
			b.observe(&agentv1.Observation{Instances: test.b})
			pass(moving / 2)
			synctest.Wait()
			for _, alarm := range l.alarms() {
				if alarm != "FOREIGN_VRRP_SPEAKER web" {
					t.Errorf("%s: %s too soon", name, alarm)
				}
			}
			pass(time.Second)
			l.wantAlarms(test.want...)
		}
	})
}
