"""Conversion of data sets: formats, splits, categories, without loss.

    source (VOC, YOLO, COCO, CrowdHuman) ──documents──> CocoDocument per split
    CocoDocument ──split / merge / sample / categories──> CocoDocument
    CocoDocument ──write──> COCO, YOLO or VOC

This package is imported by worker processes, so it imports nothing itself.
"""
