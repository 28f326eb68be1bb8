// Package guide runs the guide's own pair of load balancers, which Tandem is
// measured against: its haproxy.cfg, its two keepalived.conf, its check script
// and its notify script, byte for byte and under their own paths, with the real
// haproxy and keepalived.
//
// One thing is not the guide's: the hosts of a lab have no systemd, so that
// "systemctl start haproxy", in the check script, calls a script of ours (see
// files/systemctl for what it does and does not do).
package guide

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/e2e/lab"
)

//go:embed files
var files embed.FS

// Node names of the pair.
const (
	MasterName = "lb-master"
	BackupName = "lb-backup"
)

// Credentials of the statistics page, as the guide's haproxy.cfg has them.
const (
	StatsUser     = "admin"
	StatsPassword = "password123"
)

// brokenFlag makes "systemctl start haproxy" fail while it exists.
const brokenFlag = "/run/haproxy.broken"

// Spec returns the guide's lab with the directories that the guide's files are
// written to, which each load balancer needs for itself.
func Spec() lab.Spec {
	spec := lab.Guide()
	for i, h := range spec.Hosts {
		if h.Name == MasterName || h.Name == BackupName {
			spec.Hosts[i].Private = []string{"/etc/haproxy", "/etc/keepalived", "/usr/local/sbin", "/var/log"}
		}
	}
	return spec
}

// Node is one load balancer of the pair.
type Node struct {
	Host       *lab.Host
	Keepalived *lab.Process
}

// Pair is the running pair.
type Pair struct {
	Master, Backup *Node
	lab            *lab.Lab
}

// Start installs the guide's files on lb-master and lb-backup of a lab made
// from Spec and starts HAProxy and keepalived on both, the master first. It
// returns when lb-master alone holds the VIP.
func Start(ctx context.Context, l *lab.Lab) (*Pair, error) {
	// The check script needs it, and without it every check fails in silence.
	if _, err := exec.LookPath("netstat"); err != nil {
		return nil, fmt.Errorf("the guide's check script calls netstat: install the package net-tools: %w", err)
	}
	master, err := startNode(ctx, l.Host(MasterName), "keepalived-master.conf")
	if err != nil {
		return nil, err
	}
	backup, err := startNode(ctx, l.Host(BackupName), "keepalived-backup.conf")
	if err != nil {
		return nil, err
	}
	p := &Pair{Master: master, Backup: backup, lab: l}
	return p, p.Held(ctx, MasterName)
}

// Held waits until the host of that name, and no other, holds the VIP.
func (p *Pair) Held(ctx context.Context, name string) error {
	return lab.Until(ctx, "the VIP on "+name+" alone", func(ctx context.Context) error {
		holders, err := p.lab.Holders(ctx, lab.VIP.Addr())
		if err == nil && !slices.Equal(holders, []string{name}) {
			err = fmt.Errorf("held by [%s]", strings.Join(holders, " "))
		}
		return err
	})
}

func startNode(ctx context.Context, h *lab.Host, keepalivedConf string) (*Node, error) {
	for _, file := range []struct {
		name, path string
		mode       os.FileMode
	}{
		{"haproxy.cfg", "/etc/haproxy/haproxy.cfg", 0o644},
		{keepalivedConf, "/etc/keepalived/keepalived.conf", 0o644},
		{"check_haproxy", "/etc/keepalived/check_haproxy.sh", 0o755},
		{"notify", "/etc/keepalived/notify.sh", 0o755},
		{"systemctl", "/usr/local/sbin/systemctl", 0o755},
	} {
		text, err := files.ReadFile("files/" + file.name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(h.Path(file.path), text, file.mode); err != nil {
			return nil, err
		}
	}
	n := &Node{Host: h}
	return n, n.boot(ctx)
}

// boot starts what starts at boot.
func (n *Node) boot(ctx context.Context) error {
	// On a real machine the haproxy package makes this directory at boot.
	if err := os.MkdirAll(n.Host.Path("/run/haproxy"), 0o755); err != nil {
		return err
	}
	if err := n.Systemctl(ctx, "start"); err != nil {
		return err
	}
	return n.StartKeepalived(ctx)
}

// StartKeepalived starts keepalived, for the first time or again.
func (n *Node) StartKeepalived(ctx context.Context) error {
	var err error
	n.Keepalived, err = n.Host.Start(ctx, lab.ProcessSpec{
		Name: "keepalived",
		Args: []string{"keepalived", "--dont-fork", "--log-console", "--log-detail"},
		Env:  []string{"TMPDIR=/run"}, // the hosts share /tmp, where it would dump its state
	})
	return err
}

// PowerBack starts the node again after a power cut of its host.
func (n *Node) PowerBack(ctx context.Context) error {
	if err := n.Host.PowerBack(ctx); err != nil {
		return err
	}
	return n.boot(ctx)
}

// Repair starts what does not run, as the guide's administrator does in the end.
func (n *Node) Repair(ctx context.Context) error {
	pids, err := n.Host.Pids("keepalived")
	if err == nil && len(pids) == 0 {
		err = n.StartKeepalived(ctx)
	}
	return errors.Join(err, n.Mend(ctx))
}

// Systemctl starts, stops or reloads the node's HAProxy.
func (n *Node) Systemctl(ctx context.Context, verb string) error {
	_, err := n.Host.Output(ctx, "/usr/local/sbin/systemctl", verb, "haproxy")
	return err
}

// KillHAProxy kills every HAProxy process of the node with SIGKILL. The check
// script may start it again, unless it was broken with Break.
func (n *Node) KillHAProxy(ctx context.Context) error { return n.Host.KillAll(ctx, "haproxy") }

// Break makes every later start of HAProxy fail, until Mend.
func (n *Node) Break() error { return os.WriteFile(n.Host.Path(brokenFlag), nil, 0o644) }

// Mend undoes Break, if there was one, and starts HAProxy, unless the check script
// has already.
func (n *Node) Mend(ctx context.Context) error {
	if err := os.Remove(n.Host.Path(brokenFlag)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	pids, err := n.Host.Pids("haproxy")
	if err != nil || len(pids) > 0 {
		return err
	}
	return n.Systemctl(ctx, "start")
}
