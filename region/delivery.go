package region

import (
	"bytes"
	"slices"
	"strings"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/sealed"
)

// depot is a microfulfillment node that has a drop's good, as the catalogue knows it.
type depot struct {
	*fulfillmentv1.Depot
	keyID []byte
}

func depotsOf(m *fulfillmentv1.CatalogDrop) []depot {
	var depots []depot
	for _, d := range m.GetDepots() {
		depots = append(depots, depot{d, sealed.KeyID(d.GetPublicKey())})
	}
	return depots
}

// delivers tells whether a depot serves a region: by its name, or a first part of it.
func (d depot) delivers(region string) bool {
	return len(d.GetZones()) == 0 || slices.ContainsFunc(d.GetZones(), func(zone string) bool {
		return region == zone || strings.HasPrefix(region, zone+"-")
	})
}

func (d *knownDrop) physical() bool {
	return d.msg.GetGoodsKind() == fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL
}

// sentFrom tells whether a depot delivers for a region.
func (d *knownDrop) sentFrom(region string) bool {
	return slices.ContainsFunc(d.depots, func(depot depot) bool { return depot.delivers(region) })
}

// openedFrom tells whether a depot that delivers for a region is among those that details are sealed to.
func (d *knownDrop) openedFrom(region string, recipients [][]byte) bool {
	return slices.ContainsFunc(d.depots, func(depot depot) bool {
		return depot.delivers(region) && slices.ContainsFunc(recipients, func(id []byte) bool { return bytes.Equal(id, depot.keyID) })
	})
}

// deliveryKeys are what clients seal details to: the keys of depots that deliver for the answering region first, since the
// purchase is most likely accepted there.
func (d *knownDrop) deliveryKeys(region string) (keys [][]byte) {
	for _, near := range []bool{true, false} {
		for _, depot := range d.depots {
			if depot.delivers(region) == near && len(keys) < sealed.MaxRecipients {
				keys = append(keys, depot.GetPublicKey())
			}
		}
	}
	return keys
}

// checkAddressed refuses a purchase of a thing that nobody could send anywhere.
func (n *Node) checkAddressed(drop string, details []byte) error {
	if d, ok := n.findDrop(drop); ok && d.physical() && len(details) == 0 {
		return invalid("delivery_details", "are required for a physical good")
	}
	return nil
}

func noDepot(drop string) error {
	return refuse(errorsv1.Reason_REASON_NO_DEPOT, "nobody is known who could send it from here", "drop_id", drop)
}
