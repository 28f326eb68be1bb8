package keepalived

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// header is the first line of every file that the driver writes. It overwrites
// no file without it.
const header = "# managed by Tandem; changes by hand are lost\n"

// layout is what the configuration refers to outside itself. The paths are on
// the whitelist.
type layout struct {
	fifo     string // state changes come out here
	trackDir string // holds the track files
	user     string // no script ever runs, but keepalived wants one for them
	noSwap   bool   // keepalived may lock its memory
}

// Track files, by name in keepalived.conf and in layout.trackDir.
const scoreFile = "score"

// standbyFile is the track file of a sticky instance. Names of instances do not
// hold dots, so no instance's file is called like the node's.
func standbyFile(instance string) string { return "standby." + instance }

// awayFile is the track file of an instance for failovers by hand.
func awayFile(instance string) string { return "away." + instance }

// fenceFile is the track file of an instance for fences.
func fenceFile(instance string) string { return "fence." + instance }

// trackFile is the track file of an instance for what it needs beside the node.
func trackFile(instance string) string { return "track." + instance }

// render writes keepalived.conf. It is pure: the same input gives the same
// bytes, which is how a needless reload is avoided.
func render(in *intent, l layout) []byte {
	var w bytes.Buffer
	w.WriteString(header)
	renderGlobal(&w, in, l)
	renderTrackFile(&w, l, scoreFile)
	for i := range in.instances {
		renderTrackFile(&w, l, awayFile(in.instances[i].name))
		renderTrackFile(&w, l, fenceFile(in.instances[i].name))
		if in.instances[i].sticky() {
			renderTrackFile(&w, l, standbyFile(in.instances[i].name))
		}
		if len(in.instances[i].tracks) > 0 {
			renderTrackFile(&w, l, trackFile(in.instances[i].name))
		}
		renderInstance(&w, &in.instances[i])
	}
	return w.Bytes()
}

// renderGlobal asks for no real-time priority: keepalived sets the limit of CPU
// time that goes with it to zero at a reload (lib/process.c up to 2.3.4, a
// variable that is never filled), and the kernel soon kills the child. Package
// daemon gives the priority instead.
func renderGlobal(w *bytes.Buffer, in *intent, l layout) {
	fmt.Fprintf(w, `
global_defs {
    router_id %s
    script_user %s
    enable_script_security
    vrrp_notify_fifo %s
    vrrp_notify_priority_changes true
    vrrp_higher_prio_send_advert true
    vrrp_garp_master_refresh 60
`, in.routerID, l.user, l.fifo)
	if slices.ContainsFunc(in.instances, func(i instance) bool { return len(i.peers) > 0 }) {
		w.WriteString("    vrrp_check_unicast_src\n")
	}
	if l.noSwap {
		w.WriteString("    vrrp_no_swap\n")
	}
	w.WriteString("}\n")
}

// renderTrackFile uses the name that keepalived 2.0 to 2.4 all know.
func renderTrackFile(w *bytes.Buffer, l layout, name string) {
	fmt.Fprintf(w, `
vrrp_track_file %s {
    file "%s/%s"
    weight 1
}
`, name, l.trackDir, name)
}

// renderInstance puts only the anchor into the advertisement: nodes that do not
// have the same list there would both hold the VIP, so it must never change.
func renderInstance(w *bytes.Buffer, i *instance) {
	fmt.Fprintf(w, `
vrrp_instance %s {
    state BACKUP
    version %d
    interface %s
    virtual_router_id %d
    priority %d
    advert_int %s
    notify_deleted
`, i.name, i.version, i.over, i.vrid, i.priority, seconds(i.advert))
	if i.virtualMAC {
		// Another node's answer in the moment of a move may have led switches astray.
		fmt.Fprintf(w, "    use_vmac %s\n    vmac_xmit_base\n    garp_master_delay 1\n", i.device())
	} else {
		w.WriteString("    promote_secondaries\n") // keepalived sees to that itself on such a device
	}
	if i.apart() { // a peer that ends may take the carrier with it: see overScore
		w.WriteString("    dont_track_primary\n")
	}
	if i.repeat != announceRepeat {
		fmt.Fprintf(w, "    garp_master_repeat %d\n", i.repeat)
	}
	if i.refresh != announceRefresh {
		fmt.Fprintf(w, "    garp_master_refresh %d\n", i.refresh/time.Second)
	}
	if i.password != "" {
		fmt.Fprintf(w, `    authentication {
        auth_type PASS
        auth_pass %s
    }
`, i.password)
	}
	if len(i.peers) > 0 {
		fmt.Fprintf(w, "    unicast_src_ip %s\n", i.source)
		renderBlock(w, "unicast_peer", "", i.peers...)
	}
	renderBlock(w, "virtual_ipaddress", i.settings(), i.anchor)
	if len(i.extra) > 0 {
		renderBlock(w, "virtual_ipaddress_excluded", i.settings(), i.extra...)
	}
	tracked := []string{scoreFile, awayFile(i.name), fenceFile(i.name)}
	if i.sticky() {
		tracked = append(tracked, standbyFile(i.name))
	}
	if len(i.tracks) > 0 {
		tracked = append(tracked, trackFile(i.name))
	}
	if links := i.links(); len(links) > 0 || i.apart() {
		w.WriteString("    track_interface {\n")
		if i.apart() { // newer keepalived tracks the interface of an address by itself (no_track)
			fmt.Fprintf(w, "        %s\n", i.iface)
		}
		for _, l := range links {
			fmt.Fprintf(w, "        %s weight %d\n", l.spec.Interface, l.weight)
		}
		w.WriteString("    }\n")
	}
	fmt.Fprintf(w, "    track_file {\n        %s\n    }\n}\n", strings.Join(tracked, "\n        "))
}

// settings of each address. A device with a virtual MAC address gets no routes: the
// node's own packets go out by the interface itself.
func (i *instance) settings() string {
	switch {
	case i.virtualMAC:
		return " noprefixroute"
	case i.apart():
		return " dev " + i.iface
	default:
		return ""
	}
}

// seconds writes a multiple of 10 ms; a float64 would add digits to some.
func seconds(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10)
	}
	return fmt.Sprintf("%d.%02d", d/time.Second, d%time.Second/(10*time.Millisecond))
}

func renderBlock[A netip.Addr | netip.Prefix](w *bytes.Buffer, name, on string, addresses ...A) {
	fmt.Fprintf(w, "    %s {\n", name)
	for _, a := range addresses {
		fmt.Fprintf(w, "        %v%s\n", a, on)
	}
	w.WriteString("    }\n")
}
