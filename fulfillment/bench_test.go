package fulfillment_test

import (
	"testing"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// The figures hold the whole call: client, grpc over memory, one transaction. The file's are mostly one fsync.

var engines = map[string]func(testing.TB) *sqldb.DB{"file": openFile, "memory": openMemory}

func BenchmarkSettleUnits100(b *testing.B) {
	for name, open := range engines {
		b.Run(name, func(b *testing.B) {
			l := start(b, open(b), fulfillment.Config{}, nil)
			n := l.join()
			drop := ""
			claims := func() []*fulfillmentv1.UnitClaim {
				for drop == "" || n.untouched(drop) < 100 {
					if drop == "" || n.grant(drop, 10_000).GetLease() == nil {
						drop = l.createDrop(100_000).GetDrop().GetDropId()
					}
				}
				batch := make([]*fulfillmentv1.UnitClaim, 100)
				for i := range batch {
					batch[i] = n.take(drop)
				}
				return batch
			}
			for b.Loop() {
				b.StopTimer()
				batch := claims()
				b.StartTimer()
				l.settle(batch...)
			}
			b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "units/s")
		})
	}
}

func BenchmarkGrantLease(b *testing.B) {
	for name, open := range engines {
		b.Run(name, func(b *testing.B) {
			l := start(b, open(b), fulfillment.Config{}, nil)
			n := l.join()
			drop := l.createDrop(100_000).GetDrop().GetDropId()
			for b.Loop() {
				if n.grant(drop, 1).GetLease() == nil {
					b.StopTimer()
					drop = l.createDrop(100_000).GetDrop().GetDropId()
					b.StartTimer()
				}
			}
		})
	}
}
