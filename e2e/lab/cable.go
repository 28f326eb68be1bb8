package lab

import (
	"context"
	"strings"
)

// Cut takes the host's port on the switch down: the host loses its carrier.
func (h *Host) Cut(ctx context.Context) error {
	return h.sw.ip(ctx, "link", "set", "dev", h.Name, "down")
}

// Plug takes the host's port on the switch up again.
func (h *Host) Plug(ctx context.Context) error {
	return h.sw.ip(ctx, "link", "set", "dev", h.Name, "up")
}

// Direction is seen from the host.
type Direction string

// The two directions of a cable.
const (
	In  Direction = "ingress"
	Out Direction = "egress"
)

// Drop makes the host lose the packets of one direction that match, while its
// carrier stays up. The match is nftables' own language, such as
// "ip protocol vrrp" or "ip saddr 192.168.1.11"; an empty one matches every
// packet, ARP included. Several drops add up until Undrop.
func (h *Host) Drop(ctx context.Context, d Direction, match string) error {
	rules := strings.Join([]string{
		"table netdev lab {",
		"chain " + string(d) + " {",
		"type filter hook " + string(d) + " device eth0 priority 0;",
		match + " counter drop",
		"}", "}", "",
	}, "\n")
	return h.nft(ctx, rules)
}

// Undrop ends every Drop of the host.
func (h *Host) Undrop(ctx context.Context) error {
	// Adding the table first makes the removal of a missing one no error.
	return h.nft(ctx, "table netdev lab\ndelete table netdev lab\n")
}

func (h *Host) nft(ctx context.Context, rules string) error {
	cmd := h.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	_, err := capture(cmd)
	return err
}
