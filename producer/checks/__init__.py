"""What `resnextq doctor` checks besides the servers themselves. `producer.doctor` calls these.

room       free space on disks, and descriptors
fleet      jobs that no worker serves, versions, clocks: read from the database
listening  the HTTP API, and addresses that other machines can reach
"""
