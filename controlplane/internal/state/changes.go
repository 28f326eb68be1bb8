package state

import (
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func CreateCluster(x *tandemv1.Cluster) Change { return nil }
func UpdateCluster(x *tandemv1.Cluster, mask *fieldmaskpb.FieldMask) Change { return nil }
func DeleteCluster(etag string) Change { return nil }
func CreateVip(id string, x *tandemv1.Vip) Change { return nil }
func UpdateVip(x *tandemv1.Vip, mask *fieldmaskpb.FieldMask) Change { return nil }
func DeleteVip(id, etag string) Change { return nil }
func CreateListener(id string, x *tandemv1.Listener) Change { return nil }
func UpdateListener(x *tandemv1.Listener, mask *fieldmaskpb.FieldMask) Change { return nil }
func DeleteListener(id, etag string) Change { return nil }
func CreatePool(id string, x *tandemv1.Pool) Change { return nil }
func UpdatePool(x *tandemv1.Pool, mask *fieldmaskpb.FieldMask) Change { return nil }
func DeletePool(id, etag string) Change { return nil }
func CreateBackend(pool, id string, x *tandemv1.Backend) Change { return nil }
func UpdateBackend(x *tandemv1.Backend, mask *fieldmaskpb.FieldMask) Change { return nil }
func DeleteBackend(pool, id, etag string) Change { return nil }
func SetOverride(x *tandemv1.Override, mask *fieldmaskpb.FieldMask) Change { return nil }
func DeleteOverride(pool, backend string) Change { return nil }
func ExpireOverrides() Change { return nil }
func AddNode(id, uid string) Change { return nil }
func UpdateNode(x *tandemv1.Node, mask *fieldmaskpb.FieldMask) Change { return nil }
func DeleteNode(id, etag string) Change { return nil }
func ApplyConfig(x *tandemv1.ClusterConfig, etag string) Change { return nil }
func Export(c *Config) *tandemv1.ClusterConfig { return nil }
func Validate(m interface{}, prefix string) error { return nil }
func ClusterView(c *Config) *tandemv1.Cluster { return nil }
func ListenerView(c *Config, l *tandemv1.Listener) *tandemv1.Listener { return nil }
func PoolView(c *Config, l *tandemv1.Pool) *tandemv1.Pool { return nil }
